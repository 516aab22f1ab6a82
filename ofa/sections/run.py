"""One pre-training run: all its sections, and what must hold between them."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.data import DataConfig
from ofa.sections.model import ModelConfig, ObjectiveConfig, TeacherConfig
from ofa.sections.schedule import ScheduleConfig
from ofa.sections.training import TrainingConfig, with_loss_weights


class EvaluateConfig(Section):
    """Validation while training and at the end."""

    every: int = Field(default=1000, gt=0)
    """Steps between two validations; one is always made at the end."""

    rows: int | None = Field(default=None, gt=0)
    """Validation rows used, from the first; null: all of them."""

    micro_size: int | None = Field(default=None, gt=0)
    """Rows of one forward; null: batch.micro_size."""


class RunConfig(TrainingConfig):
    """One pre-training run: teacher preparation, sparse pre-training, or one-shot pruning."""

    model: ModelConfig
    teacher: TeacherConfig | None = None
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    schedule: ScheduleConfig
    evaluate: EvaluateConfig = EvaluateConfig()

    PLACES: ClassVar[dict[str, Any]] = {"data": {"path", "workers"}}

    @property
    def rewind_target(self) -> int | None:
        """As the schedule says."""
        return self.schedule.rewind_target

    @property
    def prunes(self) -> bool:
        """Whether something is taken away, so that what it is taken from is scored too."""
        return self.pruning is not None

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        return with_loss_weights(values, taught=(0.5, 0.5))

    @model_validator(mode="after")
    def _sections_fit(self) -> RunConfig:
        if self.objective.kd_weight and self.teacher is None:
            raise ValueError("objective.kd_weight is above 0 but there is no teacher section")
        if self.objective.hidden_weight and self.teacher is None:
            raise ValueError("objective.hidden_weight is above 0 but there is no teacher section")
        if self.pruning and self.pruning.last_allowed > self.schedule.total_steps:
            raise ValueError(
                f"pruning may refresh until step {self.pruning.last_allowed}, after total_steps "
                f"{self.schedule.total_steps}; set pruning.end"
            )
        return self

    @model_validator(mode="after")
    def _rounds_fit(self) -> RunConfig:
        """Round-based rewinding prunes exactly where a round begins."""
        rewind, pruning = self.schedule.rewind, self.pruning
        if rewind is None or rewind.policy == "prune_ofa":
            return self
        policy = f"schedule.rewind.policy {rewind.policy}"
        if pruning is None:
            if rewind.policy == "weights":
                raise ValueError(f"{policy} puts old values under new masks, and nothing is pruned: add pruning")
            return self
        if rewind.policy == "weights" and pruning.regrow:
            raise ValueError(
                f"{policy} puts old values under masks that only ever grow, and pruning.regrow true brings dropped "
                "weights back: set pruning.regrow to false"
            )
        grid = {
            "begin": (rewind.start, pruning.first_allowed),
            "frequency": (rewind.frequency, pruning.frequency),
            "last refresh": (rewind.end - rewind.frequency, pruning.last_refresh),
        }
        wrong = [f"{key} {expected}, found {found}" for key, (expected, found) in grid.items() if expected != found]
        if wrong:
            raise ValueError(
                f"{policy} prunes once at the beginning of every round, so pruning must have {'; '.join(wrong)} "
                "(set pruning.begin, frequency and end; begin and end are ramp_start and ramp_end if not given)"
            )
        return self
