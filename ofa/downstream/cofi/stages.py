"""The clock of a CoFi run: one step counter through its three stages.

Stage one fine-tunes the dense model, stage two prunes it, and the small model that comes out is trained on in stage
three. The learning rate falls linearly to 0 over the first two and starts at its peak again where pruning begins (the
published code makes a new scheduler there); the third has a schedule of its own. A warm-up of `schedule` belongs to
stage one: where pruning begins the rate is at its peak at once, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ofa.config import AnyCofiConfig, CofiConfig, CofiMlmConfig, ScheduleConfig
from ofa.recipe import Knobs, Recipe
from ofa.sections.cofi import check_target_is_held


@dataclass(frozen=True)
class Stages:
    """Steps at which the stages of a run change."""

    begin: int
    """The first update under gates."""
    ramp_end: int
    """From here on the target is the final one."""
    pruned: int
    """The structure is final: the small model takes over with so many updates applied."""
    total: int

    @classmethod
    def of(cls, config: CofiConfig, steps_of: Callable[[float], int]) -> Stages:
        """Of a task, from a config and the number of steps that epochs come to.

        Raises:
            ValueError: the target would not be reached before the structure becomes final.
        """
        asked, structure = config.schedule, config.structure
        pruned = asked.total_steps or steps_of(asked.epochs or 0.0)
        stages = steps_of(structure.begin_epochs), steps_of(structure.ramp_epochs)
        return cls._held(*stages, pruned, steps_of(config.finetune.epochs), ("epochs", "schedule.epochs"))

    @classmethod
    def of_steps(cls, config: CofiMlmConfig) -> Stages:
        """Of a corpus, whose config counts in steps.

        Raises:
            ValueError: as `of`.
        """
        structure, pruned = config.structure, config.schedule.total_steps
        stages = structure.begin_steps, structure.ramp_steps
        return cls._held(*stages, pruned, config.finetune.steps, ("steps", "schedule.total_steps"))

    @classmethod
    def _held(cls, begin: int, ramp: int, pruned: int, small: int, keys: tuple[str, str]) -> Stages:
        """The stages, in which the target is held for some steps; `keys` as of `check_target_is_held`."""
        check_target_is_held(begin + ramp, pruned, "steps", keys)
        return cls(begin, begin + ramp, pruned, pruned + small)

    def target(self, dense: float, final: float, step: int) -> float:
        """dense + (final - dense) * min(1, k / W), with k steps since pruning began and W of the ramp (cofi.md 1.7).

        Args:
            dense: sparsity of the dense structure: 0, or that of a sparse base whose non-zeros are counted.
            final: of the structure in the end.
            step: of the run.
        """
        if step < self.begin:
            return dense
        if step >= self.ramp_end:
            return final
        return dense + (final - dense) * (step - self.begin) / (self.ramp_end - self.begin)


class GatedClock(Recipe):
    """Stages one and two: `at(step)` for 0 <= step <= stages.pruned."""

    def __init__(self, config: AnyCofiConfig, stages: Stages, dense: float):
        """`dense` as of `Stages.target`."""
        asked, peak = config.schedule, config.optimizer.lr
        self.total_steps = stages.pruned
        self._stages, self._ends = stages, (dense, config.structure.sparsity)
        self._dense = Recipe.of(_line(stages.pruned, config.warmup_steps(stages.begin), asked.decay), peak)
        self._gated = Recipe.of(_line(stages.pruned - stages.begin, 0, asked.decay), peak)

    def at(self, step: int) -> Knobs:
        """The knobs of the update `step` -> `step` + 1; `sparsity` is the target."""
        begin = self._stages.begin
        found = self._dense.at(step) if step < begin else self._gated.at(step - begin)
        return replace(found, step=step, sparsity=self._stages.target(*self._ends, step))


class CompactClock(Recipe):
    """Stage three: `at(step)` for stages.pruned <= step <= stages.total."""

    def __init__(self, config: AnyCofiConfig, stages: Stages):
        asked, steps = config.finetune, stages.total - stages.pruned
        self.total_steps = stages.total
        self._start, self._sparsity = stages.pruned, config.structure.sparsity
        schedule = _line(steps, math.ceil(asked.warmup_share * steps), asked.decay)
        self._own = Recipe.of(schedule, asked.lr or config.optimizer.lr)

    def at(self, step: int) -> Knobs:
        """The knobs of the update `step` -> `step` + 1; `sparsity` is the final target."""
        return replace(self._own.at(step - self._start), step=step, sparsity=self._sparsity)


def _line(steps: int, warmup: int, decay: str) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"total_steps": steps, "warmup_steps": warmup, "decay": decay})
