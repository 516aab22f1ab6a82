"""What quantisation asks of the training loop's pruner: when forwards are quantised, and when ranges move.

Zeros are left to the lock. Schedules count applied updates: a step that the engine skips moves no range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.pruning.pruner import MaskChurn, Pruner
from ofa.recipe import Knobs

KEY = "quantisation"
"""Of its part of the state."""


@dataclass(frozen=True)
class QatSchedule:
    """Steps at which things change."""

    begin: int
    """From here on forwards are quantised."""
    freeze: int
    """From here on ranges stay."""

    @classmethod
    def of(cls, begin: int, freeze_share: float, total: int) -> QatSchedule:
        """From a config; the share is of the steps in 8 bits, so that ranges can move however late these begin.

        Raises:
            ValueError: nothing would be trained in 8 bits.
        """
        if begin >= total:
            raise ValueError(
                f"quantization.begin_step is {begin} and the run has {total} steps: nothing would be trained in 8 "
                "bits; lower it, or train longer"
            )
        return cls(begin, total - int(freeze_share * (total - begin)))


class QatPruner:
    """The loop's pruner of a run in 8 bits."""

    def __init__(self, lock: Pruner, quantisers: FakeQuantisers, schedule: QatSchedule, calibrate: Callable[[], None]):
        """
        Args:
            lock: what keeps zeros, or `NoPruner`.
            quantisers: of the model that is trained.
            schedule: of the run.
            calibrate: measures first ranges (a collective call).
        """
        self._lock, self._quantisers, self._schedule, self._calibrate = lock, quantisers, schedule, calibrate
        quantisers.quantising = False

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Of the lock."""
        return self._lock.keep

    def before_step(self, knobs: Knobs) -> MaskChurn | None:
        """Set the scene of the coming update; where quantisation begins, calibrate."""
        churn = self._lock.before_step(knobs)
        begun = knobs.step >= self._schedule.begin
        if begun and not self._quantisers.ranges.calibrated:
            self._calibrate()
        self._quantisers.quantising = begun
        self._quantisers.learning = begun and knobs.step < self._schedule.freeze
        return churn

    def after_step(self, coming: Knobs) -> None:
        """Zeros of the lock, then one step of the moving averages."""
        self._lock.after_step(coming)
        if self._quantisers.learning:
            self._quantisers.ranges.commit()

    def enforce(self) -> None:
        """The engine has skipped its update: so do ranges."""
        self._lock.enforce()
        self._quantisers.ranges.discard()

    def state_dict(self) -> dict[str, Any]:
        """Of the lock, and of the quantisers."""
        return {**self._lock.state_dict(), KEY: self._quantisers.state_dict()}

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Continue.

        Raises:
            ValueError: the state is of a run that is not in 8 bits, or of another model.
        """
        if KEY not in state:
            raise ValueError("this run is in 8 bits but the checkpoint holds no ranges: it is of another kind of run")
        self._lock.load_state_dict({name: value for name, value in state.items() if name != KEY}, knobs)
        self._quantisers.load_state_dict(state[KEY])
