"""From the paths of an adapter row to the modules of a model: what structural pruning hooks, scales and cuts.

In: a stock transformers model. Out: its layers as `Block`s, what stands around them as a `Stream`, and its `Sizes`.
Everything is looked up and measured at once, so that a row that does not fit is an error that names the path, and
nothing that comes later has to look again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ofa.models.adapters import adapter_for, encoder_layers, has_module, shape
from ofa.models.architecture import AdapterError, Blocks, CompactShape, Shape
from ofa.models.structure import Sizes

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Block:
    """The modules of one layer, by the names of `Blocks`."""

    name: str
    """State-dict prefix of the layer, such as `bert.encoder.layer.0`."""
    paths: Blocks
    layer: nn.Module
    mixer: nn.Module
    qkv: tuple[nn.Linear, ...]
    """Three Linears [H h, d], or one [3 H h, d]."""
    attention_out: nn.Linear
    """[d, H h]"""
    attention_norm: nn.Module
    """LayerNorm; Identity in the first layer of some pre-norm encoders."""
    ffn: nn.Module
    up: nn.Linear
    """[F, d], or [2 F, d] if gated."""
    down: nn.Linear
    """[d, F]"""
    ffn_norm: nn.Module

    def weight_name(self, path: str) -> str:
        """State-dict name of the weight of one of `paths.linears()`."""
        return f"{self.name}.{path}.weight"


@dataclass(frozen=True)
class Stream:
    """What writes to the residual stream outside the layers; what reads from it: `reader_paths`."""

    embeddings: tuple[nn.Embedding, ...]
    embedding_norm: nn.LayerNorm
    projection: nn.Linear | None
    """Where there is one, the stream begins behind it, and the embeddings have a size of their own."""
    final_norm: nn.LayerNorm | None


def is_compact(config: PreTrainedConfig) -> bool:
    """Whether it is of a structurally pruned model."""
    return getattr(config, "structure", None) is not None


def living_shape(config: PreTrainedConfig) -> Shape:
    """Sizes that decide FLOPs of a stock model, or of what is left of it in a compact one."""
    dense = shape(config)
    if not is_compact(config):
        return dense
    structure: Any = config.structure
    values = vars(dense) | {"hidden": structure["hidden"] or dense.hidden, "head_size": structure["head_size"]}
    heads, dims = tuple(structure["heads"]), tuple(structure["intermediate"])
    return CompactShape(**values, living_heads=heads, living_dims=dims)


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Units of each family of a stock model: `sizes_by` its config."""
    return sizes_by(model.config)


def sizes_by(config: PreTrainedConfig) -> Sizes:
    """Units of each family of the stock models of a config.

    Raises:
        AdapterError: its architecture has no row.
    """
    sizes = shape(config)
    return Sizes(
        layers=sizes.layers,
        heads=sizes.heads,
        head_size=sizes.hidden // sizes.heads,
        intermediate=sizes.intermediate,
        hidden=sizes.hidden,
    )


def blocks_of(model: PreTrainedModel) -> list[Block]:
    """The layers of a stock model, first to last.

    Raises:
        AdapterError: a path of the row leads nowhere, to another kind of module, or to one of another size.
    """
    adapter = adapter_for(model.config.model_type)
    layers = encoder_layers(model)
    blocks = [
        _block(layer, f"{adapter.layers}.{number}", adapter.model_type, adapter.blocks)
        for number, layer in enumerate(layers)
    ]
    sizes = sizes_of(model)
    for block in blocks:
        _check_sizes(block, sizes, adapter.model_type)
    return blocks


def stream_of(model: PreTrainedModel) -> Stream:
    """What stands around the layers of a stock model.

    Raises:
        AdapterError: as `blocks_of`.
    """
    adapter = adapter_for(model.config.model_type)
    paths, base, row = adapter.blocks, adapter.base, adapter.model_type
    projects = paths.projection is not None and has_module(model, f"{base}.{paths.projection}")
    return Stream(
        embeddings=tuple(find(model, f"{base}.{path}", nn.Embedding, row) for path in paths.embeddings),
        embedding_norm=find(model, f"{base}.{paths.embedding_norm}", nn.LayerNorm, row),
        projection=find(model, f"{base}.{paths.projection}", nn.Linear, row) if projects else None,
        final_norm=find(model, f"{base}.{paths.final_norm}", nn.LayerNorm, row) if paths.final_norm else None,
    )


def reader_paths(model: PreTrainedModel) -> tuple[str, ...]:
    """Paths of the Linears that read the final hidden states in this class of model.

    Raises:
        AdapterError: the row does not know the class.
    """
    adapter, kind = adapter_for(model.config.model_type), type(model).__name__
    for ending, paths in adapter.blocks.readers:
        if kind.endswith(ending):
            return paths
    known = ", ".join(ending for ending, _ in adapter.blocks.readers)
    raise AdapterError(
        f"adapter {adapter.model_type}: what reads the hidden states of a {kind} is not known, only of classes that "
        f"end in {known}; add it to `readers` of the row in ofa/models/adapters.py"
    )


def find(model: nn.Module, path: str, kind: type[M], row: str, prefix: str = "") -> M:
    """The module at a path.

    Args:
        model: in which to look.
        path: from there.
        kind: class that it must have.
        row: model type of the adapter row, for the message.
        prefix: path of `model`, for the message.

    Raises:
        AdapterError: there is none, or it is of another class.
    """
    found = model.get_submodule(path) if has_module(model, path) else None
    if not isinstance(found, kind):
        what = "no module" if found is None else f"a {type(found).__name__}"
        raise AdapterError(
            f"adapter {row}: found {what} at {prefix}{path}, expected a {kind.__name__}; correct `blocks` of the row "
            "in ofa/models/adapters.py, or give a stock model"
        )
    return found


def _block(layer: nn.Module, name: str, row: str, paths: Blocks) -> Block:
    def at(path: str, kind: type[M]) -> M:
        return find(layer, path, kind, row, f"{name}.")

    return Block(
        name=name,
        paths=paths,
        layer=layer,
        mixer=at(paths.mixer, nn.Module),
        qkv=tuple(at(path, nn.Linear) for path in paths.qkv),
        attention_out=at(paths.attention_out, nn.Linear),
        attention_norm=at(paths.attention_norm, nn.Module),
        ffn=at(paths.ffn, nn.Module),
        up=at(paths.up, nn.Linear),
        down=at(paths.down, nn.Linear),
        ffn_norm=at(paths.ffn_norm, nn.Module),
    )


def _check_sizes(block: Block, sizes: Sizes, row: str) -> None:
    """Hold a layer's Linears against the sizes of the config."""
    width, paths = sizes.heads * sizes.head_size, block.paths
    fused = 3 if len(paths.qkv) == 1 else 1
    expected = {path: (fused * width, sizes.hidden) for path in paths.qkv}
    expected[paths.attention_out] = (sizes.hidden, width)
    expected[paths.up] = (sizes.intermediate * (2 if paths.gated else 1), sizes.hidden)
    expected[paths.down] = (sizes.hidden, sizes.intermediate)
    for path, linear in zip(paths.linears(), (*block.qkv, block.attention_out, block.up, block.down), strict=True):
        if tuple(linear.weight.shape) != expected[path]:
            raise AdapterError(
                f"adapter {row}: {block.weight_name(path)} is {list(linear.weight.shape)}, expected "
                f"{list(expected[path])} by config.json; correct `blocks` of the row in ofa/models/adapters.py, or "
                "give a stock model"
            )
