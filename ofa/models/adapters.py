"""What differs between architectures, one row each: the only file that names an architecture.

In: a stock transformers model or its config. Out: the prunable weights (the scope) under their state-dict names, the
modules of the masked-LM and next-sentence heads, and the sizes that FLOPs are counted from.

Rows hold paths, and a row is checked against the model when it is used, so that a renamed module is an error that names
it. The road not taken is a regular expression over all Linear modules (the published code's way): a head whose name it
does not foresee is then pruned without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel


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


@dataclass(frozen=True)
class Adapter:
    """One architecture; paths are those of its masked-LM or pre-training class."""

    model_type: str
    base: str
    """The encoder with its embeddings."""
    layers: str
    """The list of encoder layers."""
    linears: tuple[str, ...]
    """Prunable Linear modules of one layer."""
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
    intermediate_key: str
    """Config key of the feed-forward size; the other sizes have one name in all configs."""
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

    def encoder_names(self, config: PreTrainedConfig) -> list[str]:
        """State-dict names of the encoder layers' prunable weights, layer by layer."""
        layers = range(config.num_hidden_layers)
        return [f"{self.layers}.{layer}.{linear}.weight" for layer in layers for linear in self.linears]

    def pooler_name(self) -> str | None:
        """State-dict name of the pooler's prunable weight."""
        return f"{self.pooler}.dense.weight" if self.pooler else None


BERT_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)

ADAPTERS = (
    Adapter(
        model_type="bert",
        base="bert",
        layers="bert.encoder.layer",
        linears=BERT_LINEARS,
        pooler="bert.pooler",
        head=("cls.predictions.transform",),
        decoder="cls.predictions.decoder",
        nsp="cls.seq_relationship",
        token_types=True,
        positions_follow_padding=False,
        intermediate_key="intermediate_size",
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_dropout_keys=("classifier_dropout",),
    ),
    Adapter(
        model_type="roberta",
        base="roberta",
        layers="roberta.encoder.layer",
        linears=BERT_LINEARS,
        pooler="roberta.pooler",
        head=("lm_head.dense", functional.gelu, "lm_head.layer_norm"),
        decoder="lm_head.decoder",
        nsp=None,
        token_types=True,
        positions_follow_padding=True,
        intermediate_key="intermediate_size",
        dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_dropout_keys=("classifier_dropout",),
    ),
    Adapter(
        model_type="distilbert",
        base="distilbert",
        layers="distilbert.transformer.layer",
        linears=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
        pooler=None,
        head=("vocab_transform", "activation", "vocab_layer_norm"),
        decoder="vocab_projector",
        nsp=None,
        token_types=False,
        positions_follow_padding=False,
        intermediate_key="hidden_dim",
        dropout_keys=("dropout", "attention_dropout"),
        head_dropout_keys=("seq_classif_dropout", "qa_dropout"),
    ),
)


def adapter_for(model_type: str) -> Adapter:
    """The row of an architecture.

    Raises:
        AdapterError: there is none; lists the known ones.
    """
    rows = {row.model_type: row for row in ADAPTERS}
    if model_type not in rows:
        raise AdapterError(f"no adapter for model_type {model_type!r}; ofa/models/adapters.py knows {', '.join(rows)}")
    return rows[model_type]


def shape(config: PreTrainedConfig) -> Shape:
    """Sizes of a model, from its config."""
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, adapter_for(config.model_type).intermediate_key),
        heads=config.num_attention_heads,
        vocab=config.vocab_size,
    )


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers, first to last.

    Raises:
        AdapterError: the row's path leads to no list of layers.
    """
    adapter = adapter_for(model.config.model_type)
    layers = model.get_submodule(adapter.layers) if _has(model, adapter.layers) else None
    if not isinstance(layers, nn.ModuleList):
        raise AdapterError(
            f"adapter {adapter.model_type}: found no list of layers at {adapter.layers}; correct `layers` of the row "
            "in ofa/models/adapters.py"
        )
    return layers


def scope(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The prunable weights of a transformers model: name -> parameter [out, in], layer by layer, the pooler last.

    The scope of Prune Once for All: every Linear of the encoder layers and, where the model has one, of the pooler;
    never embeddings, biases, LayerNorm or a head.

    Raises:
        AdapterError: a weight of the row is missing in the model, or the model's encoder has a Linear of which the row
            knows nothing.
    """
    adapter = adapter_for(model.config.model_type)
    parameters = dict(model.named_parameters())
    expected = adapter.encoder_names(model.config)
    pooler = adapter.pooler_name()
    if pooler and (pooler in parameters or _has(model, adapter.nsp)):
        expected.append(pooler)
    missing = [name for name in expected if name not in parameters]
    unknown = sorted(_linear_weights(model, adapter.base) - set(expected))
    if missing or unknown:
        matched = f"{len(expected) - len(missing)} of {len(expected)} scoped weights matched"
        raise AdapterError(
            f"adapter {adapter.model_type}: {matched}; missing {_some(missing)}; Linear weights of the encoder that "
            f"the row does not name: {_some(unknown)}. Correct the row in ofa/models/adapters.py"
        )
    return {name: parameters[name] for name in expected}


def scope_names(model: PreTrainedModel) -> list[str]:
    """Names of the scope, in its order."""
    return list(scope(model))


def encoder_names(model: PreTrainedModel) -> list[str]:
    """Names of the scope without the pooler: what `encoder_sparsity` counts."""
    names = set(adapter_for(model.config.model_type).encoder_names(model.config))
    return [name for name in scope(model) if name in names]


def sparsities(model: PreTrainedModel) -> dict[str, float]:
    """`encoder_sparsity`, `scope_sparsity` and `model_sparsity` of a model as it stands.

    Each is the fraction of zeros: in the encoder layers' prunable weights, in these and the pooler's, and in all
    parameters but the heads'. Zeros outside the scope (fresh biases, the padding row) are not counted.
    """
    return sparsities_of(base_parameters(model), scope_names(model), encoder_names(model))


def base_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Parameters of the model without its heads, by name: what published model sparsities count."""
    base = adapter_for(model.config.model_type).base
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(f"{base}.")}


def sparsities_of(tensors: Mapping[str, Tensor], scoped: Iterable[str], encoder: Iterable[str]) -> dict[str, float]:
    """As `sparsities`, for named tensors; `tensors` must hold tied weights once."""
    encoder, scoped = list(encoder), list(scoped)
    zeros = {name: tensors[name].numel() - int(torch.count_nonzero(tensors[name])) for name in {*encoder, *scoped}}

    def share(names: list[str], among: Iterable[str]) -> float:
        return sum(zeros[name] for name in names) / max(1, sum(tensors[name].numel() for name in among))

    return {
        "encoder_sparsity": share(encoder, encoder),
        "scope_sparsity": share(scoped, scoped),
        "model_sparsity": share(scoped, tensors),
    }


def _linear_weights(model: nn.Module, base: str) -> set[str]:
    modules = model.get_submodule(base).named_modules(prefix=base) if _has(model, base) else ()
    return {f"{name}.weight" for name, module in modules if isinstance(module, nn.Linear)}


def _has(model: nn.Module, path: str | None) -> bool:
    if path is None:
        return False
    try:
        return isinstance(model.get_submodule(path), nn.Module)
    except AttributeError:
        return False


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"
