"""The section of DeepSpeed, and which of its keys are whose."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section

DECIDED_FOR_DEEPSPEED = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size and batch.micro_size",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "data_types": "fp32, always",
    "gradient_clipping": "optimizer.max_grad_norm",
    "fp16": "engine.precision",
    "bf16": "engine.precision",
    "zero_optimization.stage": "engine.zero_stage",
    "steps_per_print": "log.every",
}
"""DeepSpeed keys whose values are generated, and the keys of ours that decide them."""


PASSED_TO_DEEPSPEED = (
    "communication_data_type",
    "comms_logger",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "wall_clock_breakdown",
    "zero_optimization.allgather_bucket_size",
    "zero_optimization.allgather_partitions",
    "zero_optimization.contiguous_gradients",
    "zero_optimization.overlap_comm",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.reduce_scatter",
    "zero_optimization.round_robin_gradients",
    "zero_optimization.stage3_max_live_parameters",
    "zero_optimization.stage3_max_reuse_distance",
    "zero_optimization.stage3_param_persistence_threshold",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.sub_group_size",
)
"""Keys that a user may set: none of them moves or copies weights."""


class EngineConfig(Section):
    """DeepSpeed; its own config is generated from this one."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is partitioned over the ranks: 1 fp32 masters and moments; 2 also gradients; 3 also weights; 0 nothing."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations; masters and moments are always fp32."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads of each rank; null: cores / ranks on the machine. Other counts give other last bits."""

    compile: bool = False
    """torch.compile each encoder layer of student and teacher: one compilation that all layers share. Needs a C++
    compiler on a CPU. ZeRO 3 cannot be compiled."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed keys, passed on: buckets, overlap, logging and profiling. Any other key is refused."""


    @model_validator(mode="after")
    def _deepspeed_keys_are_known(self) -> EngineConfig:
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"deepspeed.zero_optimization must be an object, found {json.dumps(zero)}")
        given = [key for key in self.deepspeed if key != "zero_optimization"]
        for key in [*given, *(f"zero_optimization.{inner}" for inner in zero)]:
            if key in DECIDED_FOR_DEEPSPEED:
                raise ValueError(f"deepspeed.{key} is decided by {DECIDED_FOR_DEEPSPEED[key]}: set that instead")
            if key not in PASSED_TO_DEEPSPEED:
                raise ValueError(
                    f"deepspeed.{key} is not passed on: DeepSpeed ignores keys that it does not know, and offload, "
                    f"quantised or compiled modes keep weights where masks do not reach them. Passed on are "
                    f"{', '.join(PASSED_TO_DEEPSPEED)}"
                )
        return self
