"""From a model and the masks of its units to a smaller model that computes the same.

Comes in: a stock model and `StructureMasks`, hard or soft. Goes out: a compact model in fp32 on the CPU, its outputs
those of the masked model. Two steps, both on the state dict (`ofa.models.cuts`): what masks multiply is multiplied into
the weights, then what is zero is left out. `ofa.models.stock_form` makes stock models of compact ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from ofa.models.adapters import adapter_for, encoder_names
from ofa.models.blocks import sizes_of
from ofa.models.build import seeded
from ofa.models.compact import compact_config, compact_model
from ofa.models.cuts import DeadSublayer, folded, plan_of
from ofa.models.structure import StructureMasks


class MaterialiseError(ValueError):
    """Masks that a kind of model cannot express."""


@torch.no_grad()
def materialise(model: PreTrainedModel, masks: StructureMasks, dead_sublayer: DeadSublayer = "skip") -> PreTrainedModel:
    """The compact model of a masked one: fp32 on the CPU, in the model's mode (COFI-25, 26, 27).

    Args:
        model: stock, without hooks that mask.
        masks: hard or soft; a unit lives if its mask is above 0.
        dead_sublayer: whether a dead sublayer of a post-norm encoder keeps its norm; a pre-norm one never does.

    Raises:
        AdapterError: the architecture's row does not fit, or hidden dimensions are cut of a class whose readers it does
            not know.
        MaterialiseError: masks of other sizes.
    """
    masks = _checked(model, masks)
    state = plan_of(model, masks, dead_sublayer).cut(folded(model, masks))
    kind = compact_model(type(model))
    config = config_like(model.config, compact_config(type(model.config)))
    config.structure = structure_of(model, masks, dead_sublayer)
    if getattr(config, "tokenizer_class", None) is None:  # transformers would look it up by the model type
        config.tokenizer_class = TOKENIZER_MAPPING_NAMES.get(model.config.model_type)
    return filled(kind, config, state, like=model)


def slice_masks(
    keep: Mapping[str, Tensor],
    model: PreTrainedModel,
    masks: StructureMasks,
    dead_sublayer: DeadSublayer = "skip",
) -> dict[str, Tensor]:
    """Boolean weight masks (`keep`, by parameter name) as they are for the materialised model's smaller weights.

    Args:
        keep: of the stock model's parameters.
        model: stock; only its sizes and names matter.
        masks: as for `materialise`.
        dead_sublayer: as for `materialise`.
    """
    return plan_of(model, _checked(model, masks), dead_sublayer).cut(keep)


def prunable_parameters(model: PreTrainedModel) -> int:
    """Weights of the layers' Linears, counted in the tensors of a stock or compact model (COFI-9, 10); no biases."""
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in encoder_names(model))


def structure_of(model: PreTrainedModel, masks: StructureMasks, dead_sublayer: DeadSublayer) -> dict[str, Any]:
    """The `structure` of a compact model's config: see `ofa.models.compact`."""
    adapter, masks = adapter_for(model.config.model_type), masks.canonical()
    paths = {**asdict(adapter.blocks), "base": adapter.base, "layers": adapter.layers.removeprefix(f"{adapter.base}.")}
    structure = {
        "heads": (masks.head > 0).sum(dim=1).tolist(),
        "intermediate": (masks.intermediate > 0).sum(dim=1).tolist(),
        "head_size": sizes_of(model).head_size,
        "hidden": None if masks.hidden is None else int((masks.hidden > 0).sum()),
        "dead_sublayer": "skip" if adapter.blocks.pre_norm else dead_sublayer,
        "paths": paths,
    }
    return _as_json(structure)


# ---- models -------------------------------------------------------------------------------------------------------


def _checked(model: PreTrainedModel, masks: StructureMasks) -> StructureMasks:
    """Canonical masks in fp32 on the CPU, of the model's sizes."""
    sizes = sizes_of(model)
    expected = {
        "head": [sizes.layers, sizes.heads],
        "intermediate": [sizes.layers, sizes.intermediate],
        "attention": [sizes.layers],
        "ffn": [sizes.layers],
    } | ({} if masks.hidden is None else {"hidden": [sizes.hidden]})
    moved = {key: getattr(masks, key).detach().float().cpu() for key in expected}
    for key, mask in moved.items():
        if list(mask.shape) != expected[key]:
            raise MaterialiseError(
                f"the {key} mask is {list(mask.shape)}, expected {expected[key]} for this {type(model).__name__}: give "
                "masks of its own gates"
            )
    if masks.hidden is not None and not bool((moved["hidden"] > 0).any()):
        raise MaterialiseError("no hidden dimension lives: nothing is left of this model; lower the target")
    return StructureMasks(**moved).canonical()


def config_like(config: PreTrainedConfig, kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config's values in a class of its kind, its attention implementation among them."""
    values = {key: value for key, value in copy.deepcopy(config.to_dict()).items() if key != "model_type"}
    made = kind.from_dict(values)
    made._attn_implementation = config._attn_implementation
    return made


def filled(
    kind: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor], *, like: PreTrainedModel
) -> PreTrainedModel:
    """A model of its kind in fp32 with these weights, in the mode of another.

    Args:
        kind: its class.
        config: its sizes.
        state: its whole state dict.
        like: whose mode it takes.
    """
    with seeded(0):  # what is drawn is overwritten; the caller's random state is left alone
        built = kind(config)
    built.load_state_dict(dict(state))
    return built.float().train(like.training)


def _as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from config.json."""
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, (list, tuple)) else value
