"""What the training loop asks of anything that prunes.

The loop calls `before_step` with the step's knobs, `after_step` when the optimizer has stepped, and `state_dict` /
`load_state_dict` around checkpoints. Weights are reached through `Weights`, which hides where the engine keeps its
copies of them, so a pruner works alike on every ZeRO stage, and in a test on a plain optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ofa.recipe import Knobs


@dataclass(frozen=True)
class MaskChurn:
    """Weights whose mask bit changed in one refresh, over the whole scope."""

    dropped: int = 0
    revived: int = 0


@dataclass(frozen=True)
class Span:
    """The weights [start, stop) of one scoped tensor, flat and row-major."""

    name: str
    start: int
    stop: int


class Weights(Protocol):
    """Copies of each scoped weight: live (used by the forward), fp32 master and optimizer moments."""

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Of each scoped weight, also where this rank holds a part of it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def spans(self) -> list[list[Span]]:
        """Which masters each rank reads: by rank, in the order of `masters`; all ranks' spans together cover every
        scoped weight exactly once."""
        ...

    def masters(self) -> list[Tensor]:
        """fp32 masters of this rank's spans, each flat, in their order; they may be views, so do not write to them."""
        ...

    def mask_live(self, keep: Mapping[str, Tensor]) -> None:
        """live *= keep."""
        ...

    def zero_dropped(self, keep: Mapping[str, Tensor]) -> None:
        """+0.0 in live weight, master and moments where keep is False."""
        ...


class Pruner(Protocol):
    """Masks and the schedule that changes them."""

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Boolean keep masks by parameter name."""
        ...

    def before_step(self, knobs: Knobs) -> MaskChurn | None:
        """Refresh masks if the step says so; None if it does not."""
        ...

    def after_step(self, coming: Knobs) -> None:
        """Enforce the masks after an optimizer step; `coming` are the knobs of the step that follows."""
        ...

    def enforce(self) -> None:
        """Put zeros where the masks drop, in every copy; for weights that were written from outside."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Continue from a checkpoint whose next step has these knobs; call after the engine has loaded its weights."""
        ...


class NoPruner:
    """Dense training: nothing is masked and nothing is done."""

    keep: Mapping[str, Tensor] = {}

    def before_step(self, knobs: Knobs) -> None:
        """Nothing to refresh."""

    def after_step(self, coming: Knobs) -> None:
        """Nothing to enforce."""

    def enforce(self) -> None:
        """Nothing to enforce."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Refuse the state of a run that prunes or keeps zeros."""
        if state:
            raise ValueError("the checkpoint holds masks but this run neither prunes nor keeps zeros (lock)")
