"""The lock: zeros that are there at the start stay where they are.

Comes in: the weights of a sparse model, with the masks that were saved beside it or without. Goes out: keep masks, and
a `Pruner` that never changes them. The rule is that of Prune Once for All (Zafrir et al. 2021): without saved masks
every weight that is zero is dropped, M = (W != 0), once, before the optimizer is made. The published code then
multiplies the mask into every forward. That was left aside: with masked gradients and with zeros in live weight, master
and moments, AdamW writes exactly 0 for ever, so nothing has to be done in a step.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.pruning.mask_set import MaskSet, check_agreement
from ofa.pruning.pruner import Weights
from ofa.recipe import Knobs

LOG = logging.getLogger(__name__)

CHANCE = 1e-3
"""Share of zeros up to which a model is dense: trained weights are exactly zero by accident only."""


class LockError(ValueError):
    """Nothing to lock, masks that are not of these weights, or a checkpoint with other zeros."""


class PatternLock:
    """Keeps every dropped weight at +0.0; see `ofa.pruning.pruner.Pruner`."""

    def __init__(self, keep: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], weights: Weights):
        """Mask the gradients from here on, and put the zeros into every copy. A collective call: ranks compare masks.

        Args:
            keep: boolean keep masks by parameter name (`locked_masks`, `zeros_of`); names of the scope, not
                necessarily all of them.
            parameters: the scope, by name.
            weights: the copies of its weights.

        Raises:
            LockError: the masks drop nothing, or are not of these weights.
            MasksDiffer: ranks lock different weights.
        """
        _check_masks(keep, weights.shapes)
        _check_zeros(keep)
        self._weights = weights
        self._masks = MaskSet.holding(keep, weights.device)
        check_agreement(self._masks, dist.ranks(), "at the start")
        self._masks.mask_gradients(parameters)
        self.enforce()

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Boolean keep masks by parameter name."""
        return self._masks.keep

    def before_step(self, knobs: Knobs) -> None:
        """Nothing to refresh."""

    def after_step(self, coming: Knobs) -> None:
        """Nothing to enforce: the optimizer wrote zeros."""

    def enforce(self) -> None:
        """+0.0 in live weights, masters and moments where the masks drop."""
        self._weights.zero_dropped(self._masks.keep)

    def state_dict(self) -> dict[str, Any]:
        """Masks at one bit a weight and their hash."""
        return {"lock": True, "masks": self._masks.packed(), "mask_hash": self._masks.hash()}

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Put the zeros into the loaded weights, after comparing the checkpoint's masks with this run's.

        Raises:
            ValueError: the state is of another model, of a run without a lock, damaged, or locks other weights.
        """
        if not state:
            raise LockError("this run keeps the zeros of model.init but the checkpoint holds no masks")
        if not state.get("lock"):
            raise LockError("this run keeps the zeros of model.init but the checkpoint is of a run that prunes")
        saved = MaskSet({name: mask.shape for name, mask in self.keep.items()}, self._weights.device)
        saved.load_packed(state["masks"])
        if saved.hash() != state["mask_hash"]:
            raise LockError("the masks of the checkpoint do not match their hash: it is damaged, use an older one")
        self._check_same(saved.keep)
        self.enforce()

    def _check_same(self, saved: Mapping[str, Tensor]) -> None:
        differing = {name: int((saved[name] != mask).sum()) for name, mask in self.keep.items()}
        differing = {name: count for name, count in differing.items() if count}
        if differing:
            raise LockError(
                f"the checkpoint keeps other zeros than model.init has now: {sum(differing.values())} places of "
                f"{len(differing)} tensors differ, first {next(iter(differing))}; put the old model back, or start "
                "anew in another --run-dir"
            )


@torch.no_grad()
def zeros_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Boolean keep masks of whole weights: False where a weight is zero, of either sign."""
    return {name: parameter != 0 for name, parameter in parameters.items()}


def locked_masks(
    scoped: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor] | None, drawn: Collection[str] = ()
) -> dict[str, Tensor]:
    """What a fine-tuning run locks, said in the log; a pure function of the model as it was read.

    Args:
        scoped: the prunable weights, whole (before the engine divides them), by name.
        saved: keep masks that stood beside the model; None: its zeros are locked, as are those of sparse tensors that
            it has no mask for. Masks of weights outside the scope are left out: a model for questions has no pooler.
        drawn: names that the model's file lacked; never locked, for their values mean nothing yet.

    Returns:
        Boolean keep masks by name, in the order of `scoped`.

    Raises:
        LockError: there is no zero to lock, or a saved mask has another shape than its weight, or drops weights that
            are not zero.
    """
    read = {name: weight for name, weight in scoped.items() if name not in drawn}
    if saved is None:
        keep, origin = zeros_of(read), "the weights that are zero"
    else:
        keep, origin = {name: saved[name] for name in read if name in saved}, "what its masks.safetensors drops"
        keep = _with_zeros_beside(keep, read)
        _check_masks(keep, {name: weight.shape for name, weight in read.items()})
        _check_dropped_are_zero(keep, read)
        _warn_of_kept_zeros(keep, read)
        unused = sorted(saved.keys() - read.keys())
        if unused:
            LOG.info("saved masks of weights that this model does not have, or that were drawn: %s", ", ".join(unused))
    _check_zeros(keep)
    dropped, weights = _counts(keep)
    LOG.info("locked: %s, %d of %d weights in %d tensors", origin, dropped, weights, len(keep))
    if dropped <= CHANCE * weights:
        LOG.warning("only %d of %d weights are zero: that is a dense model with zeros by accident", dropped, weights)
    return keep


def _with_zeros_beside(keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks, and the zeros of tensors without one that are sparse themselves."""
    found = {name: keep.get(name, mask) for name, mask in zeros_of(weights).items()}
    beside = [name for name, mask in found.items() if name not in keep and _share_of_zeros(mask) > CHANCE]
    if beside:
        LOG.warning("no mask of %s, which %s zeros: these are locked too", ", ".join(beside), _has(beside))
    return {name: mask for name, mask in found.items() if name in keep or name in beside}


def _warn_of_kept_zeros(keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, mask in keep.items():
        trained = mask & (weights[name].detach() == 0)
        if int(torch.count_nonzero(trained)) > CHANCE * mask.numel():
            LOG.warning(
                "%s: %d weights are zero and its saved mask keeps them: they are trained, not locked",
                name,
                int(torch.count_nonzero(trained)),
            )


def _has(names: Collection[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _share_of_zeros(keep: Tensor) -> float:
    return 1.0 - int(torch.count_nonzero(keep)) / max(1, keep.numel())


def _check_masks(keep: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    for name, mask in keep.items():
        if name not in shapes:
            raise LockError(f"a mask of {name}, which is no prunable weight here; the scope has {', '.join(shapes)}")
        if mask.dtype != torch.bool:
            raise LockError(f"the mask of {name} is {mask.dtype}; expected torch.bool, True where the weight lives")
        if mask.shape != shapes[name]:
            raise LockError(
                f"the mask of {name} is {list(mask.shape)}, its weight {list(shapes[name])}: the masks are of another "
                "model; take the masks.safetensors that was exported with it"
            )


def _check_dropped_are_zero(keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, mask in keep.items():
        alive = int(torch.count_nonzero(weights[name].detach()[~mask]))
        if alive:
            raise LockError(
                f"{name}: {alive} weights are not zero although their saved mask drops them; the masks are not this "
                "model's: take both from one export, or remove masks.safetensors to lock the weights that are zero"
            )


def _check_zeros(keep: Mapping[str, Tensor]) -> None:
    dropped, weights = _counts(keep)
    if not dropped:
        raise LockError(
            f"there is no zero to keep among {weights} prunable weights: the model is dense. Set lock to false to "
            "train all weights, or model.init to a sparse model"
        )


def _counts(keep: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many weights are dropped, and how many there are."""
    weights = sum(mask.numel() for mask in keep.values())
    return weights - sum(int(torch.count_nonzero(mask)) for mask in keep.values()), weights
