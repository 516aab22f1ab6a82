"""What every training run has, whatever it trains on: sections, and what must hold between them."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.data import BatchConfig
from ofa.sections.engine import EngineConfig
from ofa.sections.schedule import OptimizerConfig, PruningConfig

DIVISION = (("batch", "micro_size"), ("evaluate", "micro_size"), ("engine", "zero_stage"))
"""How the work of a step is divided. Sums are over the global batch, so this decides their last bits only."""


class CheckpointConfig(Section):
    """Where a killed run continues."""

    every: int = Field(default=1000, gt=0)
    """Steps between two checkpoints; one is always written at the end."""

    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints that stay on disk."""

    keep_finished: bool = True
    """Keep the checkpoints of a run that has ended and exported its model."""

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


class TrainingConfig(Section):
    """What pre-training and fine-tuning have in common."""

    seed: int = Field(default=42, ge=0)
    """Fresh weights, sample order, token masks and dropout all derive from it."""

    batch: BatchConfig
    optimizer: OptimizerConfig
    pruning: PruningConfig | None = None
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    PLACES: ClassVar[dict[str, Any]] = {}
    """Fields, as pydantic's `exclude` takes them, that say where data are and not what they are."""

    @model_validator(mode="after")
    def _engine_fits(self) -> TrainingConfig:
        if self.engine.zero_stage == 0 and self.engine.precision == "bf16":
            raise ValueError("zero_stage 0 with bf16 hides DeepSpeed's masters and moments: use zero_stage 1")
        if self.pruning and self.pruning.regrow and self.engine.zero_stage == 0:
            raise ValueError("pruning.regrow needs dense fp32 masters, which ZeRO 0 does not keep: use zero_stage 1")
        if self.engine.zero_stage == 3 and self.engine.compile:
            raise ValueError("zero_stage 3 gathers weights in hooks, which break a compiled layer: use zero_stage 1")
        return self

    @property
    def rewind_target(self) -> int | None:
        """Step whose weights come back at every refresh; None: they never do."""
        return None

    @property
    def most_checkpoints(self) -> int:
        """That are on disk at a time: the newest, those that are needed for longer, and one that is being written."""
        return self.checkpoint.keep_last + 1 + (self.rewind_target is not None)

    @property
    def has_masks(self) -> bool:
        """Whether a checkpoint holds masks."""
        return self.pruning is not None

    def fingerprint(self) -> str:
        """sha256 of everything that decides the result."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()

    def decisive(self) -> dict[str, Any]:
        """The values that decide more of the result than its last bits: they may not change while a run goes on. The
        data has a fingerprint of its own, so its place may change."""
        aside = {"log": True, "checkpoint": True, "engine": {"threads", "patience"}, **self.PLACES}
        aside["optimizer"] = {"max_skipped"}  # how long a run is given before it is given up
        values = self.model_dump(mode="json", exclude=aside)
        for section, key in DIVISION:
            del values[section][key]
        return values


def with_loss_weights(values: Any, *, taught: tuple[float, float]) -> Any:
    """A raw config whose objective's null weights are filled, so that the resolved one says what was run.

    Args:
        values: as they were read.
        taught: ce_weight and kd_weight with a teacher; without one they are 1 and 0.
    """
    if not isinstance(values, dict) or not isinstance(values.get("objective", {}), dict):
        return values
    objective = dict(values.get("objective", {}))
    weights = taught if values.get("teacher") is not None else (1.0, 0.0)
    for key, default in zip(("ce_weight", "kd_weight"), weights, strict=True):
        if objective.get(key) is None:
            objective[key] = default
    return {**values, "objective": objective}


def division(dumped: dict[str, Any]) -> dict[str, Any]:
    """How a dumped config divides the work of a step, by dotted key."""
    return {f"{section}.{key}": dumped.get(section, {}).get(key) for section, key in DIVISION}
