"""From a model and the masks of its units to a smaller model that computes the same.

Comes in: a stock model and `StructureMasks`, hard or soft. Goes out: a compact model in fp32 on the CPU, or a stock
one where the structure allows, its outputs those of the masked model. Two steps, both on the state dict
(`ofa.models.cuts`): what masks multiply is multiplied into the weights, then what is zero is left out.
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
from ofa.models.cuts import DeadSublayer, folded, plan_of, put_back
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
    config = _config_like(model.config, compact_config(type(model.config)))
    config.structure = structure_of(model, masks, dead_sublayer)
    if getattr(config, "tokenizer_class", None) is None:  # transformers would look it up by the model type
        config.tokenizer_class = TOKENIZER_MAPPING_NAMES.get(model.config.model_type)
    return _filled(kind, config, state, like=model)


@torch.no_grad()
def padded_twin(model: PreTrainedModel, masks: StructureMasks, dead_sublayer: DeadSublayer = "skip") -> PreTrainedModel:
    """The same function as `materialise`, in the stock class at full size, with zeros for what is dead (COFI-29).

    Raises:
        MaterialiseError: hidden dimensions are dead (the norms of a stock model count them), or a sublayer of a
            post-norm encoder is dead and skipped (a stock one normalises there).
    """
    masks = _checked(model, masks)
    if masks.hidden is not None and not bool((masks.hidden > 0).all()):
        raise MaterialiseError(
            f"{int((masks.hidden == 0).sum())} hidden dimensions are dead, and the norms of a stock "
            f"{type(model).__name__} would count them; prune without hidden dimensions, or export a compact model"
        )
    skipped = dead_sublayer == "skip" and not adapter_for(model.config.model_type).blocks.pre_norm
    dead = int((masks.attention == 0).sum() + (masks.ffn == 0).sum())
    if skipped and dead:
        raise MaterialiseError(
            f"{dead} sublayers are dead and skipped, and a stock {type(model).__name__} has a norm in each; prune with "
            "dead_sublayer keep_norm, or export a compact model"
        )
    state = folded(model, masks)
    full = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    plan = plan_of(model, masks, dead_sublayer)
    for name, tensor in plan.cut(state).items():
        full[name] = put_back(full[name], tensor, plan.cuts.get(name, ()))
    return _filled(type(model), _config_like(model.config, type(model.config)), full, like=model)


@torch.no_grad()
def stock_compact(
    model: PreTrainedModel, masks: StructureMasks, dead_sublayer: DeadSublayer = "skip"
) -> PreTrainedModel:
    """The same function in the stock class, with fewer layers and a smaller feed-forward size.

    Raises:
        MaterialiseError: the structure is not uniform; says what is not.
    """
    masks = _checked(model, masks)
    adapter = adapter_for(model.config.model_type)
    whole = (masks.attention > 0) & (masks.ffn > 0)
    _check_uniform(masks, whole, pre_norm=adapter.blocks.pre_norm, dead_sublayer=dead_sublayer)
    layers = whole.nonzero()[:, 0].tolist()
    state = plan_of(model, masks, "skip").cut(folded(model, masks))
    renamed = {}
    for name, tensor in state.items():
        number, _, rest = name.removeprefix(f"{adapter.layers}.").partition(".")
        inside = name.startswith(f"{adapter.layers}.")
        if not inside or int(number) in layers:
            renamed[f"{adapter.layers}.{layers.index(int(number))}.{rest}" if inside else name] = tensor
    config = _config_like(model.config, type(model.config))
    config.num_hidden_layers = len(layers)
    setattr(config, adapter.intermediate_key, int((masks.intermediate[layers[0]] > 0).sum()))
    if adapter.windowed:
        config.layer_types = [config.layer_types[layer] for layer in layers]
    return _filled(type(model), config, renamed, like=model)


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


def prunable_parameters(model: PreTrainedModel, *, biases: bool = False) -> int:
    """Weights of the layers' Linears, counted in the tensors of a stock or compact model (COFI-9, 10).

    Args:
        biases: count theirs too. Norms, embeddings, pooler and heads never are.
    """
    parameters = dict(model.named_parameters())
    names = encoder_names(model)
    if biases:
        names += [bias for name in names if (bias := f"{name.removesuffix('weight')}bias") in parameters]
    return sum(parameters[name].numel() for name in names)


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


def _check_uniform(masks: StructureMasks, whole: Tensor, *, pre_norm: bool, dead_sublayer: DeadSublayer) -> None:
    def refuse(what: str) -> None:
        raise MaterialiseError(f"no stock config can say this structure: {what}; export a compact model")

    if masks.hidden is not None and not bool((masks.hidden > 0).all()):
        refuse(f"{int((masks.hidden == 0).sum())} hidden dimensions are dead, but the head size follows from them")
    half = (masks.alive_layers() & ~whole).nonzero()[:, 0].tolist()
    if half:
        refuse(f"one of two sublayers is dead in the layers {half}")
    if not bool(whole.any()):
        refuse("no layer lives")
    lost = ((masks.head == 0).any(dim=1) & whole).nonzero()[:, 0].tolist()
    if lost:
        refuse(f"heads are dead in the living layers {lost}, but the head size follows from their number")
    dims = sorted(set((masks.intermediate[whole] > 0).sum(dim=1).tolist()))
    if len(dims) > 1:
        refuse(f"living layers have {', '.join(map(str, dims))} intermediate dimensions")
    if not bool(whole.all()) and dead_sublayer == "keep_norm" and not pre_norm:
        refuse("dead layers keep their norms")
    if pre_norm and not bool(whole[0]):
        refuse("layer 0 is dead, and the next one would lose the norm that a first layer does not have")


def _config_like(config: PreTrainedConfig, kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config's values in a class of its kind, its attention implementation among them."""
    values = {key: value for key, value in copy.deepcopy(config.to_dict()).items() if key != "model_type"}
    made = kind.from_dict(values)
    made._attn_implementation = config._attn_implementation
    return made


def _filled(
    kind: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor], *, like: PreTrainedModel
) -> PreTrainedModel:
    with seeded(0):  # what is drawn is overwritten; the caller's random state is left alone
        built = kind(config)
    built.load_state_dict(dict(state))
    return built.float().train(like.training)


def _as_json(value: Any) -> Any:
    """Tuples as lists, as they come back from config.json."""
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, (list, tuple)) else value
