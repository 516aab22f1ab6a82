"""Updates that are not applied: a gradient that is not finite, or one far larger than those before it.

A skipped update moves no schedule, since `step` counts applied ones, and leaves weights and moments alone. Its global
batch is behind the run all the same: tried again it would be skipped again. Skips in a row end the run.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from statistics import median
from typing import Any

from ofa import dist
from ofa.config import OptimizerConfig

LOG = logging.getLogger(__name__)

WINDOW = 100
"""Applied updates whose gradient norms say what is usual; no spike is seen before there are so many."""


class TooManySkips(ValueError):
    """Updates were skipped again and again: going on would only spend data."""


class UpdateGuard:
    """Judges updates, and counts skipped ones; alike on every rank, since norms are of the whole gradient."""

    def __init__(self, config: OptimizerConfig):
        self._ratio = config.spike_ratio
        self._limit = config.max_skipped
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        self.total = 0
        """Updates skipped since the run began."""

    @property
    def looks_at_norms(self) -> bool:
        """Whether each norm is to be shown to `accepts`, which takes a read of the device."""
        return self._ratio is not None

    def accepts(self, norm: float) -> bool:
        """Whether an update with this gradient norm, before clipping, is to be applied; asked once for each."""
        if not math.isfinite(norm):
            return False
        if self._ratio is None:
            return True
        if len(self._norms) == WINDOW and norm > self._ratio * median(self._norms):
            return False
        self._norms.append(norm)
        return True

    def applied(self) -> None:
        """The update was applied: skips are no longer in a row."""
        self._in_a_row = 0

    def skipped(self, step: int, batch: int, norm: float | None) -> None:
        """The update `step` was skipped on global batch number `batch`.

        Raises:
            TooManySkips: it is one more in a row than `optimizer.max_skipped`.
        """
        self._in_a_row += 1
        self.total += 1
        if self._in_a_row > self._limit:
            raise TooManySkips(
                f"{self._in_a_row} updates in a row were skipped at step {step}, the last with a gradient norm of "
                f"{norm}: the run has diverged and was stopped; its checkpoints are kept. Go on with a larger "
                "optimizer.max_skipped, or start anew in another --run-dir with a lower optimizer.lr or a longer "
                "schedule.warmup_steps"
            )
        if dist.rank() == 0:
            why = f"its gradient norm {norm:.4g} is " if norm is not None else "its gradient is "
            spike = norm is not None and math.isfinite(norm)
            why += f"above {self._ratio} times the median of the last {WINDOW}" if spike else "not finite"
            LOG.warning("step %d: update skipped, %s; going on with the next batch", step, why)
            LOG.debug("step %d: the batch that was skipped is number %d", step, batch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold; it is written after an applied update."""
        return {"norms": list(self._norms), "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._norms = deque(state["norms"], maxlen=WINDOW)
        self.total = state["total"]
