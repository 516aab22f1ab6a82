"""Encoders whose layers have sizes of their own: what is left of a stock model after structural pruning.

Comes in: a config with a `structure`. Goes out: the stock class of that config, built as it is and then cut down, with
stock names in its state dict and without weights for what is dead. This file is copied into every exported folder
(`auto_map` in its config.json), so it imports torch and transformers alone and works there without the package that
wrote it; it names no architecture, since the structure carries the paths of its adapter row.

    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)

Classes are made when they are asked for: `CompactXForY` of this module is `transformers.XForY`, cut down. Classes
written out for each architecture were left aside: they would be copies of code that transformers owns.

`structure` holds:

    heads, intermediate   number of living heads and intermediate dimensions of each layer; 0: the sublayer is dead
    head_size             dimensions of a head
    hidden                number of living hidden dimensions; null: all
    dead_sublayer         `skip`: a dead sublayer gives back its input; `keep_norm`: its norm stays (post-norm only)
    paths                 where the modules are
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

PREFIX = "Compact"
MODEL_TYPE_PREFIX = "compact_"
AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
)


class StructureError(ValueError):
    """A structure that does not fit its model."""


class NoAttention(nn.Module):
    """In place of a dead attention: adds nothing, and has no attention weights."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """A zero that broadcasts."""
        return hidden_states.new_zeros(()), None


class NoFeedForward(nn.Module):
    """In place of a dead feed-forward network: adds nothing."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """A zero that broadcasts."""
        return hidden_states.new_zeros(())


def __getattr__(name: str) -> Any:
    """`CompactXConfig` and `CompactXForY`, made of `transformers.XConfig` and `transformers.XForY`."""
    stock = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if isinstance(stock, type) and issubclass(stock, (PreTrainedConfig, PreTrainedModel)):
        made = compact_config(stock) if issubclass(stock, PreTrainedConfig) else compact_model(stock)
        globals()[name] = made
        return made
    raise AttributeError(f"module {__name__} has no attribute {name}")


def compact_config(stock: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """The config class of compact models of an architecture; always the same for one stock class."""
    name = PREFIX + stock.__name__
    if name not in globals():
        values = {
            "__module__": __name__,
            "__doc__": f"{stock.__name__} and a `structure`.",
            "model_type": MODEL_TYPE_PREFIX + stock.model_type,
            "structure": None,
            "_auto_class": "AutoConfig",
        }
        globals()[name] = type(name, (stock,), values)
    return globals()[name]


def compact_model(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The compact class of a stock one; always the same for one stock class."""
    name = PREFIX + stock.__name__
    if name in globals():
        return globals()[name]
    own: Any = stock.config_class

    def __init__(self: Any, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        cut_down(self, getattr(config, "structure", None))
        config.auto_map = auto_map(own)

    members = {
        "__module__": __name__,
        "__doc__": f"{stock.__name__}, cut down to its config's `structure`.",
        "__init__": __init__,
        "config_class": compact_config(own),
        # transformers reads a class's own file to see whether it can change attention; ours has none of that code.
        "_can_set_attn_implementation": classmethod(lambda _: stock._can_set_attn_implementation()),
        "_auto_class": next((auto for auto, one in _stock_classes(own) if one is stock), "AutoModel"),
    }
    globals()[name] = type(name, (stock,), members)
    return globals()[name]


def auto_map(stock: type[PreTrainedConfig]) -> dict[str, str]:
    """What config.json says of the classes in this file, by the name of the Auto class."""
    module = __name__.rpartition(".")[2]
    classes = {auto: f"{module}.{PREFIX}{one.__name__}" for auto, one in _stock_classes(stock)}
    return {"AutoConfig": f"{module}.{PREFIX}{stock.__name__}", **classes}


def register(stock: type[PreTrainedConfig]) -> None:
    """Make transformers' Auto classes load compact models of an architecture without code from their folder."""
    config = compact_config(stock)
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto, one in _stock_classes(stock):
        getattr(transformers, auto).register(config, compact_model(one), exist_ok=True)


def _stock_classes(stock: type[PreTrainedConfig]) -> list[tuple[str, type[PreTrainedModel]]]:
    found = [(auto, getattr(transformers, auto)._model_mapping.get(stock, None)) for auto in AUTO_CLASSES]
    return [(auto, one) for auto, one in found if isinstance(one, type)]


# ---- cutting down -------------------------------------------------------------------------------------------------


def cut_down(model: PreTrainedModel, structure: dict[str, Any] | None) -> None:
    """Shrink a stock model's modules in place; the weights that stay are its first ones.

    Raises:
        StructureError: the structure is missing, has another number of layers, or cuts hidden dimensions that this
            class reads in a way that it does not say.
    """
    if structure is None:
        raise StructureError(f"the config of a {type(model).__name__} needs a structure: load it from its folder")
    paths, hidden = structure["paths"], structure["hidden"]
    base = getattr(model, paths["base"], model)
    layers = _at(base, paths["layers"])
    if not len(layers) == len(structure["heads"]) == len(structure["intermediate"]):
        raise StructureError(f"the structure has {len(structure['heads'])} layers, its config {len(layers)}")
    for layer, heads, dims in zip(layers, structure["heads"], structure["intermediate"], strict=True):
        _cut_attention(layer, heads * structure["head_size"], structure)
        _cut_ffn(layer, dims, structure)
    if hidden is not None:
        _cut_stream(model, base, hidden, paths)


def _cut_attention(layer: nn.Module, width: int, structure: dict[str, Any]) -> None:
    paths, hidden = structure["paths"], structure["hidden"]
    if not width:
        return _remove(layer, "mixer", NoAttention(), "attention_out", "attention_norm", structure)
    for path in paths["qkv"]:
        _cut_linear(_at(layer, path), width * (3 if len(paths["qkv"]) == 1 else 1), hidden)
    _cut_linear(_at(layer, paths["attention_out"]), hidden, width)
    return _cut_norm(_at(layer, paths["attention_norm"]), hidden)


def _cut_ffn(layer: nn.Module, dims: int, structure: dict[str, Any]) -> None:
    paths, hidden = structure["paths"], structure["hidden"]
    if not dims:
        return _remove(layer, "ffn", NoFeedForward(), "down", "ffn_norm", structure)
    _cut_linear(_at(layer, paths["up"]), dims * (2 if paths["gated"] else 1), hidden)
    _cut_linear(_at(layer, paths["down"]), hidden, dims)
    return _cut_norm(_at(layer, paths["ffn_norm"]), hidden)


def _remove(layer: nn.Module, body: str, nothing: nn.Module, out: str, norm: str, structure: dict[str, Any]) -> None:
    paths = structure["paths"]
    layer.set_submodule(paths[body], nothing)
    if not paths[out].startswith(paths[body] + "."):
        layer.set_submodule(paths[out], nn.Identity())
    if paths["pre_norm"] or structure["dead_sublayer"] == "skip":
        layer.set_submodule(paths[norm], nn.Identity())
    else:
        _cut_norm(_at(layer, paths[norm]), structure["hidden"])


def _cut_stream(model: PreTrainedModel, base: nn.Module, hidden: int, paths: dict[str, Any]) -> None:
    """Everything outside the layers that writes to or reads from the residual stream."""
    readers = next((found for ending, found in paths["readers"] if type(model).__name__.endswith(ending)), None)
    if readers is None:
        known = ", ".join(ending for ending, _ in paths["readers"])
        raise StructureError(f"hidden dimensions of a {type(model).__name__} cannot be cut, only of {known}")
    projection = getattr(base, paths["projection"], None) if paths["projection"] else None
    if projection is not None:
        _cut_linear(projection, hidden, None)
    else:
        for path in paths["embeddings"]:
            table = _at(base, path)
            table.weight = _first(table.weight, None, hidden)
            table.embedding_dim = hidden
        _cut_norm(_at(base, paths["embedding_norm"]), hidden)
    if paths["final_norm"]:
        _cut_norm(_at(base, paths["final_norm"]), hidden)
    for path in readers:
        _cut_linear(_at(model, path), None, hidden)


def _at(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)


def _cut_linear(linear: nn.Linear, rows: int | None, columns: int | None) -> None:
    linear.weight = _first(linear.weight, rows, columns)
    linear.out_features, linear.in_features = linear.weight.shape
    if linear.bias is not None:
        linear.bias = _first(linear.bias, rows)


def _cut_norm(norm: nn.LayerNorm | nn.Identity, hidden: int | None) -> None:
    if hidden is None or isinstance(norm, nn.Identity):
        return
    norm.weight = _first(norm.weight, hidden)
    norm.normalized_shape = (hidden,)
    if norm.bias is not None:
        norm.bias = _first(norm.bias, hidden)


def _first(parameter: Tensor, *sizes: int | None) -> Any:
    """The first so many rows and columns of a parameter, None for all; itself where nothing goes."""
    if all(size is None or size == found for size, found in zip(sizes, parameter.shape, strict=True)):
        return parameter
    kept = parameter.detach()[tuple(slice(size) for size in sizes)]
    return nn.Parameter(kept.clone(memory_format=torch.contiguous_format), requires_grad=parameter.requires_grad)
