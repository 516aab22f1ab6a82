"""The section of DeepSpeed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.deepspeed_keys import check_deepspeed_keys


class EngineConfig(Section):
    """DeepSpeed; its own config is generated from this one."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is partitioned over the ranks: 1 fp32 masters and moments; 2 also gradients; 3 also weights; 0 nothing."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations; masters and moments are always fp32."""

    threads: int | None = Field(default=None, gt=0, le=1024)
    """CPU threads of each rank; null: OMP_NUM_THREADS of a process alone, else cores / ranks on the machine. Other
    counts give other last bits."""

    compile: bool = False
    """torch.compile each encoder layer of student and teacher: one compilation that all layers share, but for
    those of a compact model, each of which has its own. Needs a C++ compiler on a CPU. ZeRO 3 cannot be compiled."""

    patience: float | None = Field(default=120.0, ge=3.0)
    """Seconds without a sign of life after which a rank is taken to hang, and the others end and name it; null: never.
    A rank that computes, reads or writes for long gives signs of life all the while. To come together at the start
    ranks get five times as long."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed keys, passed on: buckets, overlap, logging and profiling. Any other key is refused."""

    @model_validator(mode="after")
    def _deepspeed_keys_are_known(self) -> EngineConfig:
        check_deepspeed_keys(self.deepspeed)
        return self
