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
    """Target fraction of zeros by `pruning.sparsity`, continuous."""
    update_mask: bool
    last_update: bool
    """This refresh is the last of the run: masks are final after it."""
    remaining: float = 0.0
    """Share of the ramp that is still to come, from 1 before it to exactly 0.0 at its end and from the last refresh on.
    Tensors with an initial and a final sparsity of their own are at final + (initial - final) * remaining."""
    rewind_to: int | None = None
    """Step whose weights come back after this refresh; None: they stay as they are."""


class Recipe:
    """`Recipe(config).at(step)` for 0 <= step <= total_steps."""

    def __init__(self, config: RunConfig):
        self._take(config.schedule, config.optimizer.lr, config.pruning)

    @classmethod
    def of(cls, schedule: ScheduleConfig, peak_lr: float, pruning: PruningConfig | None = None) -> Recipe:
        """The same clock from its sections alone, for a loop that has no run's config."""
        recipe = cls.__new__(cls)
        recipe._take(schedule, peak_lr, pruning)
        return recipe

    def _take(self, schedule: ScheduleConfig, peak_lr: float, pruning: PruningConfig | None) -> None:
        self.total_steps = schedule.total_steps
        self._peak = peak_lr
        self._schedule = schedule
        self._pruning = pruning

    def at(self, step: int) -> Knobs:
        """The knobs of the update `step` -> `step` + 1."""
        lr = self._peak * lr_multiplier(self._schedule, step)
        if self._pruning is None:
            return Knobs(step, lr, sparsity=0.0, update_mask=False, last_update=False)
        refresh = is_refresh(self._pruning, step)
        return Knobs(
            step,
            lr,
            sparsity=target_sparsity(self._pruning, step),
            update_mask=refresh,
            last_update=step == self._pruning.last_refresh,
            remaining=ramp_remaining(self._pruning, step),
            rewind_to=self._schedule.rewind_target if refresh else None,
        )


def lr_multiplier(schedule: ScheduleConfig, step: int) -> float:
    """Learning rate at `step` as a share of its peak."""
    rewind, zero_at = schedule.rewind, schedule.total_steps
    if rewind is not None and rewind.policy != "prune_ofa":
        step, zero_at = replayed_step(rewind, step), rewind.start
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.decay == "constant":
        return 1.0
    if rewind is not None and rewind.policy == "prune_ofa":
        return rewound_linear(schedule, rewind, step)
    return linear_decay(step, zero_at, zero_at - schedule.warmup_steps)


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


def replayed_step(rewind: RewindConfig, step: int) -> int:
    """The clock of the policies `learning_rate` and `weights` (Renda et al. 2020, section 2).

    Training to completion is a schedule of its own, `start` steps long: warm-up, then linear decay to 0 at `start`.
    There the weights are pruned, and every round of `frequency` steps replays that schedule's last steps: step t stands
    at start - frequency + (t - start) mod frequency. The end of the last round is the end of the schedule.

    The schedule of Prune Once for All (`rewound_linear`) shares the name and little else: it never trains to
    completion, but stays near the peak until pruning is over.
    """
    if step < rewind.start:
        return step
    if step >= rewind.end:
        return rewind.start
    return rewind.start - rewind.frequency + (step - rewind.start) % rewind.frequency


def target_sparsity(pruning: PruningConfig, step: int) -> float:
    """s_f + (s_i - s_f) * remaining."""
    return pruning.sparsity + (pruning.initial_sparsity - pruning.sparsity) * ramp_remaining(pruning, step)


def ramp_remaining(pruning: PruningConfig, step: int) -> float:
    """Share of the way from the initial to the final sparsity that is still to go: 1 before the ramp, 0.0 after it.

    From the last refresh on it is 0.0, so that a ramp whose end is off the refresh grid still reaches its target.
    """
    if step >= pruning.ramp_end or step >= pruning.last_refresh:
        return 0.0
    if pruning.ramp == "geometric":
        return geometric_remaining(pruning, step)
    start, end = pruning.ramp_start, pruning.ramp_end
    return (1.0 - (step - start) / (end - start) if step > start else 1.0) ** 3


def geometric_remaining(pruning: PruningConfig, step: int) -> float:
    """Iterative pruning: each of the n refreshes inside the ramp takes the same share of what is left.

    Refresh i = 0 ... n - 1 leaves the density (1 - s_i) * ((1 - s_f) / (1 - s_i))^((i + 1) / n), which stays until the
    next one. This is the published "prune 20 % of the rest in every round" (Frankle and Carbin 2019; Renda et al.
    2020) with the share chosen so that the last round reaches the target.
    """
    begin, every = pruning.first_allowed, pruning.frequency
    first = max(0, -((begin - pruning.ramp_start) // every))  # grid points before the ramp are not of its rounds
    rounds = (min(pruning.ramp_end, pruning.last_allowed) - begin) // every + 1 - first
    done = (step - begin) // every + 1 - first
    if rounds <= 0 or done <= 0:
        return 1.0
    ratio = (1.0 - pruning.sparsity) / (1.0 - pruning.initial_sparsity)
    if ratio == 1.0:
        return 1.0 - min(done, rounds) / rounds  # the limit, for tensors whose override has another target
    return (ratio ** (min(done, rounds) / rounds) - ratio) / (1.0 - ratio)


def is_refresh(pruning: PruningConfig, step: int) -> bool:
    """Whether masks are selected anew at `step`: on the grid begin, begin + frequency, ... up to end."""
    inside = pruning.first_allowed <= step <= pruning.last_allowed
    return inside and (step - pruning.first_allowed) % pruning.frequency == 0
