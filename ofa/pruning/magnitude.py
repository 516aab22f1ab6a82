"""Gradual magnitude pruning in two modes; `ofa.pruning.ranking` says which weights are small.

`regrow=True` (retain, the published semantics): the fp32 master stays dense, the forward sees live = master * keep,
and gradients are masked, so a dropped weight keeps its value, moved only by Adam's residue and weight decay, and may
return at a later refresh. The last refresh hardens it. Before a refresh the live weight is left as the optimizer wrote
it, dense, so that what returns is there on every rank and no weight has to travel.

`regrow=False` (hard): a refresh zeroes live weight, master and both moments where weights are dropped. With masked
gradients AdamW then writes exactly 0 for ever, so nothing has to be done between refreshes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ofa import dist
from ofa.config import PruningConfig
from ofa.pruning.allocation import ranking_groups
from ofa.pruning.mask_set import MaskSet, check_agreement
from ofa.pruning.pruner import MaskChurn, Weights
from ofa.pruning.ranking import Ranking
from ofa.recipe import Knobs


class MagnitudePruner:
    """Keeps the largest magnitudes; see `ofa.pruning.pruner.Pruner`."""

    def __init__(self, config: PruningConfig, parameters: Mapping[str, nn.Parameter], weights: Weights):
        """A collective call: ranks tell each other what they hold.

        Raises:
            ValueError: a tensor does not fit its pattern, or an override matches none.
        """
        shapes = weights.shapes
        self._weights = weights
        self._groups = ranking_groups(config, shapes)
        self._ranking = Ranking(self._groups, shapes, weights.spans(), ties=config.ties)
        self._masks = MaskSet(shapes, weights.device)
        self._masks.mask_gradients(parameters)
        self._hardened = not config.regrow

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Boolean keep masks by parameter name."""
        return self._masks.keep

    def before_step(self, knobs: Knobs) -> MaskChurn | None:
        """Select anew from the fp32 masters if the step is on the refresh grid (then a collective call)."""
        if not knobs.update_mask:
            return None
        sparsities = [group.sparsity(knobs.remaining) for group in self._groups]
        selected = self._ranking.select(
            self._weights.masters(), sparsities, frozen=self._masks.keep if self._hardened else None
        )
        dropped, revived = self._masks.replace(selected)
        check_agreement(self._masks, dist.ranks())
        self._hardened = self._hardened or knobs.last_update
        self.enforce()
        return MaskChurn(dropped, revived)

    def after_step(self, coming: Knobs) -> None:
        """The optimizer has copied dense masters over the live weights: mask them again while weights may return."""
        if not self._hardened and not coming.update_mask:
            self._weights.mask_live(self._masks.keep)

    def enforce(self) -> None:
        """Zeros where the masks drop: in the live weights, and in masters and moments once dropped means for good."""
        if self._hardened:
            self._weights.zero_dropped(self._masks.keep)
        else:
            self._weights.mask_live(self._masks.keep)

    def state_dict(self) -> dict[str, Any]:
        """Masks at one bit a weight, their hash, and whether they are final."""
        return {"masks": self._masks.packed(), "mask_hash": self._masks.hash(), "hardened": self._hardened}

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Take over masks and put them into the loaded weights, unless the step begins with a refresh.

        Raises:
            ValueError: the state is of another model, or its masks do not match their hash.
        """
        if not state:
            raise ValueError("this run prunes but the checkpoint holds no masks")
        if state.get("lock"):
            raise ValueError("this run prunes but the checkpoint is of a run that keeps the zeros it began with (lock)")
        self._masks.load_packed(state["masks"])
        if self._masks.hash() != state["mask_hash"]:
            raise ValueError("the masks of the checkpoint do not match their hash: it is damaged, use an older one")
        self._hardened = state["hardened"]
        self.after_step(knobs)
