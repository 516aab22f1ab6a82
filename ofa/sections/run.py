"""One training run: all its sections, and what must hold between them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.data import BatchConfig, DataConfig
from ofa.sections.engine import EngineConfig
from ofa.sections.model import ModelConfig, ObjectiveConfig, TeacherConfig
from ofa.sections.schedule import OptimizerConfig, PruningConfig, ScheduleConfig

DIVISION = (("batch", "micro_size"), ("evaluate", "micro_size"), ("engine", "zero_stage"))
"""How the work of a step is divided. Sums are over the global batch, so this decides their last bits only."""


class CheckpointConfig(Section):
    """Where a killed run continues."""

    every: int = Field(default=1000, gt=0)
    """Steps between two checkpoints; one is always written at the end."""

    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints that stay on disk."""

    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints whose step is a multiple of this stay for good."""


class LogConfig(Section):
    """metrics.jsonl and what mirrors it."""

    every: int = Field(default=10, gt=0)
    """Steps between two metrics lines; mask refreshes always get a line."""

    tensorboard: bool = True
    """Also write TensorBoard event files."""

    samples: bool = False
    """Also write, on every rank, which rows each update trained on: see `ofa.samples`. Reads the device once a step."""


class EvaluateConfig(Section):
    """Validation while training and at the end."""

    every: int = Field(default=1000, gt=0)
    """Steps between two validations; one is always made at the end."""

    rows: int | None = Field(default=None, gt=0)
    """Validation rows used, from the first; null: all of them."""

    micro_size: int | None = Field(default=None, gt=0)
    """Rows of one forward; null: batch.micro_size."""


class RunConfig(Section):
    """One training run: teacher preparation, sparse pre-training, or one-shot pruning."""

    seed: int = Field(default=42, ge=0)
    """Fresh weights, sample order, token masks and dropout all derive from it."""

    model: ModelConfig
    teacher: TeacherConfig | None = None
    data: DataConfig
    batch: BatchConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    pruning: PruningConfig | None = None
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        """Fill the objective's null weights, so that the resolved config says what was run."""
        if not isinstance(values, dict) or not isinstance(values.get("objective", {}), dict):
            return values
        objective = dict(values.get("objective", {}))
        has_teacher = values.get("teacher") is not None
        for key, default in (("ce_weight", 0.5 if has_teacher else 1.0), ("kd_weight", 0.5 if has_teacher else 0.0)):
            if objective.get(key) is None:
                objective[key] = default
        return {**values, "objective": objective}

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
        if self.engine.zero_stage == 0 and self.engine.precision == "bf16":
            raise ValueError("zero_stage 0 with bf16 hides DeepSpeed's masters and moments: use zero_stage 1")
        if self.pruning and self.pruning.regrow and self.engine.zero_stage == 0:
            raise ValueError("pruning.regrow needs dense fp32 masters, which ZeRO 0 does not keep: use zero_stage 1")
        if self.engine.zero_stage == 3 and self.engine.compile:
            raise ValueError("zero_stage 3 gathers weights in hooks, which break a compiled layer: use zero_stage 1")
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

    def fingerprint(self) -> str:
        """sha256 of everything that decides the result."""
        return _digest(self.decisive())

    def decisive(self) -> dict[str, Any]:
        """The values that decide more of the result than its last bits: they may not change while a run goes on. The
        data has a fingerprint of its own, so its place may change."""
        aside = {"log": True, "checkpoint": True, "data": {"path", "workers"}, "engine": {"threads", "patience"}}
        aside["optimizer"] = {"max_skipped"}  # how long a run is given before it is given up
        values = self.model_dump(mode="json", exclude=aside)
        for section, key in DIVISION:
            del values[section][key]
        return values


def division(dumped: dict[str, Any]) -> dict[str, Any]:
    """How a dumped config divides the work of a step, by dotted key."""
    return {f"{section}.{key}": dumped.get(section, {}).get(key) for section, key in DIVISION}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
