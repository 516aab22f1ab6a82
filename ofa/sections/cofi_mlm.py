"""One CoFi run on a corpus: a masked-LM model that is pruned structurally before any task, and comes out small, dense
and task-agnostic. In place of `task` it has `data`, and its stages are given in steps."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from ofa.sections.cofi import (
    CofiConfig,
    LayersTaughtConfig,
    SmallModelConfig,
    UnitsConfig,
    check_structure,
    check_target_is_held,
    with_published_weights,
)
from ofa.sections.model import ObjectiveConfig
from ofa.sections.run import RunConfig


class StructureStepsConfig(UnitsConfig):
    """Which units go, how many, and when, in steps of a corpus.

    The run has three stages: the dense model is trained (`begin_steps`), then pruned up to the end of `schedule` while
    the target rises from 0 within `ramp_steps`, and then trained on in its small form (`finetune`).
    """

    begin_steps: int = Field(ge=0)
    """Steps before anything is pruned."""

    ramp_steps: int = Field(ge=0)
    """Steps in which the target rises to `sparsity`."""


class CofiMlmObjectiveConfig(LayersTaughtConfig, ObjectiveConfig):
    """As of pre-training, and layer_weight * sum over matched layers of the mean squared distance of hidden states."""

    ce_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the label losses; null: 0 with a teacher, 1 without."""

    kd_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the distillation losses; null: 0.1 with a teacher, 0 without."""


class CompactStepsConfig(SmallModelConfig):
    """The last stage: the small model is trained on, its structure as it is."""

    steps: int = Field(ge=0)
    """Optimizer steps; 0: the pruned model is exported as it is."""


class CofiMlmConfig(RunConfig):
    """One CoFi run on a corpus. `schedule` is that of the stages before the structure is final."""

    lock: bool = False
    """Keep every zero of `model.init` besides: structured pruning of a sparse base."""

    objective: CofiMlmObjectiveConfig = CofiMlmObjectiveConfig()
    structure: StructureStepsConfig
    finetune: CompactStepsConfig

    @property
    def has_masks(self) -> bool:
        """Those of the lock."""
        return self.lock

    @property
    def prunes(self) -> bool:
        """Units."""
        return True

    def warmup_steps(self, begin: int) -> int:
        """Steps of linear warm-up, where pruning begins at step `begin`."""
        return self.schedule.warmup_steps

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        if isinstance(values, dict) and "task" in values and "data" in values:
            raise ValueError("task and data both say what is trained on: give one of them")
        return with_published_weights(values)

    @model_validator(mode="after")
    def _structure_fits(self) -> CofiMlmConfig:
        check_structure(self, self.objective, self.structure, taught=self.teacher is not None, lock=self.lock)
        if not any((self.objective.ce_weight, self.objective.kd_weight, self.objective.layer_weight)):
            raise ValueError("objective.ce_weight, kd_weight and layer_weight are all 0: nothing would be learned")
        if self.structure.hidden:
            raise ValueError(
                "structure.hidden: the decoder of masked words is the word embedding, and would need its full width: "
                "set it to false"
            )
        if self.lock and self.model.init is None:
            raise ValueError("lock keeps the zeros of model.init, and there is none")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> CofiMlmConfig:
        schedule, begin = self.schedule, self.structure.begin_steps
        if schedule.rewind is not None:
            raise ValueError("schedule.rewind is for pruning single weights, and structure takes units away: remove it")
        if schedule.warmup_steps > begin:
            raise ValueError(
                f"schedule.warmup_steps is {schedule.warmup_steps} and pruning begins at step {begin} "
                "(structure.begin_steps), where the rate starts at its peak anew: lower the one or raise the other"
            )
        before = begin + self.structure.ramp_steps
        check_target_is_held(before, schedule.total_steps, "steps", ("steps", "schedule.total_steps"))
        return self


AnyCofiConfig = CofiConfig | CofiMlmConfig
"""Of a run that prunes units, whatever it trains on."""
