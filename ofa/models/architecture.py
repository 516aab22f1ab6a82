"""What an adapter row says of an architecture: types without values, named by no architecture.

The rows stand in `ofa.models.adapters`. What structural pruning needs (`Blocks`) is plain strings, since an exported
compact model carries it in its config.json and rebuilds itself from it without this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig


class AdapterError(ValueError):
    """An architecture without a row, or a row that does not fit the model."""


@dataclass(frozen=True)
class Shape:
    """Sizes that decide FLOPs."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    embedding: int
    """Size of the embeddings, to which the masked-LM head transforms."""
    ffn_matrices: int
    """Of a feed-forward network, hidden by intermediate: 2, or 3 where it is gated."""

    @property
    def attention_widths(self) -> int:
        """Dimensions of all layers' heads."""
        return self.layers * self.hidden

    @property
    def ffn_widths(self) -> int:
        """Intermediate dimensions of all layers."""
        return self.layers * self.intermediate


@dataclass(frozen=True)
class CompactShape(Shape):
    """Of a compact model; `hidden` are its own, the other sizes those of the model that it was cut out of."""

    head_size: int
    living_heads: tuple[int, ...]
    """Of each layer."""
    living_dims: tuple[int, ...]
    """Intermediate dimensions of each layer."""

    @property
    def attention_widths(self) -> int:
        """Of the heads that live."""
        return self.head_size * sum(self.living_heads)

    @property
    def ffn_widths(self) -> int:
        """Of what lives."""
        return sum(self.living_dims)


@dataclass(frozen=True)
class Blocks:
    """Where the units of structural pruning stand; `ofa.models.blocks` leads from paths to modules.

    Two kinds of layers are described. Post-norm: `y = norm(x + sublayer(x))`. Pre-norm: `y = x + sublayer(norm(x))`,
    where the first norm may be an Identity.
    """

    mixer: str
    """Within a layer: the module that mixes tokens; it holds `qkv`, and its result is what `attention_out` projects."""
    qkv: tuple[str, ...]
    """Linears of queries, keys and values, heads end to end in their rows; one name: a Linear of all three."""
    attention_out: str
    """Linear that projects the heads' results to the residual stream."""
    attention_norm: str
    ffn: str
    """Module that gives the input of `down`, or that holds `up` and `down` both."""
    up: str
    down: str
    ffn_norm: str
    gated: bool
    """`up` has two halves (GeGLU): unit j of F is its rows j and j + F."""
    pre_norm: bool
    embeddings: tuple[str, ...]
    """Within the base: tables whose sum is the embedding."""
    embedding_norm: str
    projection: str | None
    """Linear from the embeddings to the hidden size, where the model has one."""
    final_norm: str | None
    """Norm behind the last layer of a pre-norm encoder."""
    readers: tuple[tuple[str, tuple[str, ...]], ...]
    """(end of a class name, Linears of that class that read the final hidden states)."""

    def linears(self) -> tuple[str, ...]:
        """The prunable Linears of a layer."""
        return (*self.qkv, self.attention_out, self.up, self.down)


@dataclass(frozen=True)
class Adapter:
    """One architecture; paths are those of its masked-LM or pre-training class."""

    model_type: str
    base: str
    """The encoder with its embeddings."""
    layers: str
    """The list of encoder layers."""
    blocks: Blocks
    """Modules of one layer and around the layers; their Linears are the prunable ones."""
    pooler: str | None
    """Module that makes a sentence vector of the first token; its `dense` is prunable where the model has it."""
    head: tuple[str | Callable[[Tensor], Tensor], ...]
    """Steps of the masked-LM head before the decoder: module paths, or functions where the model has no module."""
    decoder: str
    """Linear that makes logits; its weight is the word embedding."""
    nsp: str | None
    """Linear of the next-sentence head."""
    token_types: bool
    """The encoder takes `token_type_ids`."""
    positions_follow_padding: bool
    """Position embeddings begin at pad_token_id + 1 instead of 0."""
    windowed: bool
    """Some layers see a window only (`config.sliding_window` tokens to each side): masks are given as a dict."""
    intermediate_key: str
    """Config key of the feed-forward size; the other sizes have one name in all configs."""
    embedding_key: str
    """Config key of the embeddings' size."""
    pooling_key: str | None
    """Config key that is `mean` where a sentence is judged by the mean of its tokens instead of its first one."""
    dropout_keys: tuple[str, ...]
    """Config keys of the dropout probabilities that act in pre-training."""
    head_dropout_keys: tuple[str, ...]
    """Those of task heads."""

    def position_offset(self, config: PreTrainedConfig) -> int:
        """Embedding index of a segment's first token."""
        return config.pad_token_id + 1 if self.positions_follow_padding else 0

    def longest_sequence(self, config: PreTrainedConfig) -> int:
        """Tokens of the longest segment that the position embeddings cover."""
        return config.max_position_embeddings - self.position_offset(config)

    def takes_token_types(self, config: PreTrainedConfig) -> bool:
        """Whether second segments have an embedding of their own."""
        return self.token_types and config.type_vocab_size > 1

    def takes_means(self, config: PreTrainedConfig) -> bool:
        """Whether heads for whole sentences take the mean over tokens, for which they need the mask [B, S]."""
        return self.pooling_key is not None and getattr(config, self.pooling_key) == "mean"

    def encoder_names(self, config: PreTrainedConfig) -> list[str]:
        """State-dict names of the encoder layers' prunable weights, layer by layer."""
        living = self._living_linears(config)
        return [f"{self.layers}.{layer}.{linear}.weight" for layer, found in enumerate(living) for linear in found]

    def _living_linears(self, config: PreTrainedConfig) -> list[tuple[str, ...]]:
        """The Linears of each layer; compact models lack those of dead sublayers."""
        structure = getattr(config, "structure", None)
        if structure is None:
            return [self.blocks.linears()] * config.num_hidden_layers
        attention, ffn = (*self.blocks.qkv, self.blocks.attention_out), (self.blocks.up, self.blocks.down)
        sizes = zip(structure["heads"], structure["intermediate"], strict=True)
        return [(attention if heads else ()) + (ffn if dims else ()) for heads, dims in sizes]

    def pooler_name(self) -> str | None:
        """State-dict name of the pooler's prunable weight."""
        return f"{self.pooler}.dense.weight" if self.pooler else None
