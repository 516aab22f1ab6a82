"""Gradual magnitude pruning, per tensor, in two modes.

`regrow=True` (retain, the published semantics): the fp32 master stays dense, the forward sees live = master * keep,
and gradients are masked, so a dropped weight keeps its value, moved only by Adam's residue and weight decay, and may
return at a later refresh. The last refresh hardens it.

`regrow=False` (hard): a refresh zeroes live weight, master and both moments where weights are dropped. With masked
gradients AdamW then writes exactly 0 for ever, so nothing has to be done between refreshes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofa.config import PruningConfig
from ofa.pruning.mask_set import MaskSet
from ofa.pruning.masks import DROPPED, keep_largest
from ofa.pruning.pruner import MaskChurn, Weights
from ofa.recipe import Knobs


class MagnitudePruner:
    """Keeps the largest magnitudes of each scoped tensor; see `ofa.pruning.pruner.Pruner`."""

    def __init__(self, config: PruningConfig, parameters: Mapping[str, nn.Parameter], weights: Weights):
        self._config = config
        self._weights = weights
        self._masks = MaskSet(parameters)
        self._masks.mask_gradients(parameters)
        self._hardened = not config.regrow

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Boolean keep masks by parameter name."""
        return self._masks.keep

    def before_step(self, knobs: Knobs) -> MaskChurn | None:
        """Select anew from the fp32 masters if the step is on the refresh grid."""
        if not knobs.update_mask:
            return None
        churn = [self._refresh(name, knobs.sparsity) for name in self._masks.keep]
        self._hardened = self._hardened or knobs.last_update
        if self._hardened:
            self._weights.zero_dropped(self._masks.keep)
        return MaskChurn(dropped=sum(d for d, _ in churn), revived=sum(r for _, r in churn))

    def after_step(self) -> None:
        """The optimizer has copied dense masters over the live weights: mask them again while weights may return."""
        if not self._hardened:
            self._weights.mask_live(self._masks.keep)

    def state_dict(self) -> dict[str, Any]:
        """Masks at one bit a weight, their hash, and whether they are final."""
        return {"masks": self._masks.packed(), "mask_hash": self._masks.hash(), "hardened": self._hardened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over masks and put them into the loaded weights.

        Raises:
            ValueError: the state is of another model, or its masks do not match their hash.
        """
        if not state:
            raise ValueError("this run prunes but the checkpoint holds no masks")
        self._masks.load_packed(state["masks"])
        if self._masks.hash() != state["mask_hash"]:
            raise ValueError("the masks of the checkpoint do not match their hash: it is damaged, use an older one")
        self._hardened = state["hardened"]
        self._weights.mask_live(self._masks.keep)

    def _refresh(self, name: str, sparsity: float) -> tuple[int, int]:
        master = self._weights.full_master(name)
        scores = master.abs()
        if self._hardened:
            # Dropped weights are zero; a live weight that is zero too must not be dropped in their place.
            scores = torch.where(self._masks.keep[name], scores, DROPPED)
        churn = self._masks.replace(name, keep_largest(scores, sparsity, ties=self._config.ties))
        # From the master, not from the live weight: what returns was zero there.
        self._weights.write_live(name, master * self._masks.keep[name])
        return churn
