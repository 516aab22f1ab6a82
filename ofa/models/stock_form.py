"""A compact model in the stock classes of transformers, for tools that know no other.

Comes in: a compact model (`ofa.models.compact`). Goes out: a `StockForm`, the same function in the class that the
compact one was cut from: a smaller model where a stock config can say the structure, or one of full size with zeros in
place of what is gone. What it was cut from is not needed: which of a layer's heads or dimensions lived changes nothing,
so the living ones come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ofa.models.adapters import Adapter, adapter_for
from ofa.models.blocks import sizes_of
from ofa.models.cuts import plan_of, put_back
from ofa.models.materialise import MaterialiseError, config_like, filled
from ofa.models.structure import Sizes, StructureMasks

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class StockForm:
    """A stock model, and where a compact model's tensors stand in it."""

    model: PreTrainedModel
    place: Callable[[Tensors], dict[str, Tensor]]
    """Tensors by the compact model's names, weights or their boolean masks -> by names and sizes of the stock one."""
    gone: frozenset[str]
    """Tensors that the compact model does not have, zeros in the stock one."""


def smaller(compact: PreTrainedModel) -> StockForm:
    """Fewer layers and a smaller feed-forward size.

    Raises:
        MaterialiseError: the structure is not uniform; says what is not.
    """
    structure, adapter = compact.config.structure, adapter_for(compact.config.model_type)
    _check_uniform(structure, adapter, sizes_of(compact))
    layers = [layer for layer, heads in enumerate(structure["heads"]) if heads]
    config = _stock_config(compact)
    config.num_hidden_layers = len(layers)
    setattr(config, adapter.intermediate_key, structure["intermediate"][layers[0]])
    if adapter.windowed:
        config.layer_types = [config.layer_types[layer] for layer in layers]
    renamed = {f"{adapter.layers}.{layer}.": f"{adapter.layers}.{place}." for place, layer in enumerate(layers)}

    def place(tensors: Tensors) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():
            old = next((old for old in renamed if name.startswith(old)), "")
            found[renamed.get(old, "") + name.removeprefix(old)] = tensor
        return found

    model = filled(_stock_class(compact), config, place(compact.state_dict()), like=compact)
    return StockForm(model, place, frozenset())


def padded(compact: PreTrainedModel) -> StockForm:
    """Full size, zeros for what is gone (COFI-29).

    Raises:
        MaterialiseError: hidden dimensions are gone (the norms of a stock model count them), or a sublayer of a
            post-norm encoder was skipped (a stock one normalises there).
    """
    structure, adapter = compact.config.structure, adapter_for(compact.config.model_type)
    kind, config, sizes = _stock_class(compact), _stock_config(compact), sizes_of(compact)
    hidden = _hidden_gone(structure, sizes)
    if hidden:
        raise MaterialiseError(
            f"{_counted(hidden, 'hidden dimension')} gone, which the norms of a {kind.__name__} would count "
            "(structure.hidden=false keeps all)"
        )
    dead = [*structure["heads"], *structure["intermediate"]].count(0)
    if dead and structure["dead_sublayer"] == "skip" and not adapter.blocks.pre_norm:
        raise MaterialiseError(
            f"{_counted(dead, 'sublayer')} gone and skipped, and a {kind.__name__} has a norm in each "
            "(structure.dead_sublayer=keep_norm keeps the norms)"
        )
    with torch.device("meta"):
        sized = kind(config)
    shapes = {name: tensor.shape for name, tensor in sized.state_dict().items()}
    plan = plan_of(sized, _first_units(sizes, structure), structure["dead_sublayer"])

    def place(tensors: Tensors) -> dict[str, Tensor]:
        blank = {name: torch.zeros(shapes[name], dtype=tensor.dtype) for name, tensor in tensors.items()}
        return {name: put_back(blank[name], tensor, plan.cuts.get(name, ())) for name, tensor in tensors.items()}

    blank = {name: torch.zeros(shapes[name]) for name in plan.gone}
    model = filled(kind, config, blank | place(compact.state_dict()), like=compact)
    return StockForm(model, place, plan.gone)


def _first_units(sizes: Sizes, structure: Mapping[str, Any]) -> StructureMasks:
    """Masks of the structure in which a layer's first units live."""
    masks = StructureMasks.ones(sizes)
    for layer, (heads, dims) in enumerate(zip(structure["heads"], structure["intermediate"], strict=True)):
        masks.head[layer, heads:] = 0
        masks.intermediate[layer, dims:] = 0
    return masks.canonical()


def _check_uniform(structure: Mapping[str, Any], adapter: Adapter, sizes: Sizes) -> None:
    def refuse(what: str) -> None:
        raise MaterialiseError(f"no stock config can say this structure: {what}")

    heads, dims = structure["heads"], structure["intermediate"]
    whole = [layer for layer, (some, others) in enumerate(zip(heads, dims, strict=True)) if some and others]
    if _hidden_gone(structure, sizes):
        refuse("hidden dimensions are gone, but the head size follows from their number")
    half = [layer for layer in range(len(heads)) if bool(heads[layer]) != bool(dims[layer])]
    if half:
        refuse(f"one of two sublayers is gone in the layers {half}")
    if not whole:
        refuse("no layer lives")
    lost = [layer for layer in whole if heads[layer] < sizes.heads]
    if lost:
        refuse(f"heads are gone in the living layers {lost}, but the head size follows from their number")
    widths = sorted({dims[layer] for layer in whole})
    if len(widths) > 1:
        refuse(f"living layers have {', '.join(map(str, widths))} intermediate dimensions")
    if len(whole) < len(heads) and structure["dead_sublayer"] == "keep_norm" and not adapter.blocks.pre_norm:
        refuse("layers that are gone keep their norms")
    if adapter.blocks.pre_norm and whole[0]:
        refuse("layer 0 is gone, and the next one would lose the norm that a first layer does not have")


def _counted(number: int, what: str) -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"


# ---- models -------------------------------------------------------------------------------------------------------


def _stock_class(compact: PreTrainedModel) -> type[PreTrainedModel]:
    """The class that the compact one extends."""
    return type(compact).__mro__[1]


def _stock_config(compact: PreTrainedModel) -> PreTrainedConfig:
    """The config that the compact one extends."""
    config = config_like(compact.config, type(compact.config).__mro__[1])
    for key in ("structure", "auto_map"):
        config.__dict__.pop(key, None)
    return config


def _hidden_gone(structure: Mapping[str, Any], sizes: Sizes) -> int:
    """Hidden dimensions that were cut."""
    return 0 if structure["hidden"] is None else sizes.hidden - structure["hidden"]
