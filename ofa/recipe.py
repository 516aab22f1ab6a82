"""The only clock: what the training step `t` does, as pure functions of `t`.

`t` counts applied optimizer steps. Step t is the update t -> t+1: its learning rate is lr(t), its target sparsity s(t),
and a mask refresh at t happens before its forward. `t = total_steps` is the state that is exported; a refresh there
(one-shot pruning without training) still happens. Nothing here holds state, so a resumed run sees what an uninterrupted
one sees.
"""

from __future__ import annotations

from dataclasses import dataclass

from ofa.config import PruningConfig, RewindConfig, RunConfig, ScheduleConfig


@dataclass(frozen=True)
class Knobs:
    """Everything that is scheduled, at one step."""

    step: int
    lr: float
    sparsity: float
    """Target fraction of zeros in each scoped tensor, continuous."""
    update_mask: bool
    last_update: bool
    """This refresh is the last of the run: masks are final after it."""


class Recipe:
    """`Recipe(config).at(step)` for 0 <= step <= total_steps."""

    def __init__(self, config: RunConfig):
        self.total_steps = config.schedule.total_steps
        self._peak = config.optimizer.lr
        self._schedule = config.schedule
        self._pruning = config.pruning

    def at(self, step: int) -> Knobs:
        """The knobs of the update `step` -> `step` + 1."""
        lr = self._peak * lr_multiplier(self._schedule, step)
        if self._pruning is None:
            return Knobs(step, lr, sparsity=0.0, update_mask=False, last_update=False)
        return Knobs(
            step,
            lr,
            sparsity=target_sparsity(self._pruning, step),
            update_mask=is_refresh(self._pruning, step),
            last_update=step == last_refresh(self._pruning),
        )


def lr_multiplier(schedule: ScheduleConfig, step: int) -> float:
    """Learning rate at `step` as a share of its peak."""
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.decay == "constant":
        return 1.0
    if schedule.rewind is not None:
        return rewound_linear(schedule, schedule.rewind, step)
    return linear_decay(step, schedule.total_steps, schedule.total_steps - schedule.warmup_steps)


def linear_decay(step: int, zero_at: int, length: int) -> float:
    """A line of slope -1/length that is 0 at `zero_at` and after it."""
    return max(0.0, (zero_at - step) / length) if length else 0.0


def rewound_linear(schedule: ScheduleConfig, rewind: RewindConfig, step: int) -> float:
    """Learning-rate rewinding of Prune Once for All, after the warm-up.

    With T total steps, W warm-up steps, the window [t0, t1), P = t1 - t0, T' = T - P and frequency f:

        (T' - t) / (T' - W)                               t < t0
        (T' - (t - floor((t - t0) / f) * f)) / (T' - W)   t0 <= t < t1   the clock jumps back by f every f steps
        (T  - t) / (T' - W)                               t >= t1

    This holds the rate near its peak while pruning and decays linearly afterwards; it is not Renda's rewinding, which
    repeats a full schedule after every round. With W inside the window the rate exceeds the peak by T' / (T' - W).
    """
    window = rewind.end - rewind.start
    zero_at = schedule.total_steps - window
    length = zero_at - schedule.warmup_steps
    if step >= rewind.end:
        value = linear_decay(step, schedule.total_steps, length)
    else:
        rounds = max(0, step - rewind.start) // rewind.frequency
        value = linear_decay(step - rounds * rewind.frequency, zero_at, length)
    return min(value, 1.0) if rewind.cap_at_peak else value


def target_sparsity(pruning: PruningConfig, step: int) -> float:
    """Cubic ramp of Zhu and Gupta (2018), equation 1: s_f + (s_i - s_f) * (1 - (t - t0) / (t1 - t0))^3.

    From the last refresh on it is s_f, so that a ramp whose end is off the refresh grid still reaches its target.
    """
    start, end = pruning.ramp_start, pruning.ramp_end
    if step >= end or step >= last_refresh(pruning):
        return pruning.sparsity
    remaining = 1.0 - (step - start) / (end - start) if step > start else 1.0
    return pruning.sparsity + (pruning.initial_sparsity - pruning.sparsity) * remaining**3


def is_refresh(pruning: PruningConfig, step: int) -> bool:
    """Whether masks are selected anew at `step`: on the grid begin, begin + frequency, ... up to end."""
    inside = pruning.first_allowed <= step <= pruning.last_allowed
    return inside and (step - pruning.first_allowed) % pruning.frequency == 0


def last_refresh(pruning: PruningConfig) -> int:
    """The last step of the refresh grid."""
    span = pruning.last_allowed - pruning.first_allowed
    return pruning.first_allowed + span // pruning.frequency * pruning.frequency
