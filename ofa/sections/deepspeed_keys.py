"""Every key of a DeepSpeed config and what becomes of it here: decided by us, passed on, or refused with its reason.

DeepSpeed ignores top-level keys that it does not know, so a mistyped one would do nothing without a word; and several
that it knows keep weights where masks do not reach them. So nothing is passed on that is not on the list. Asking
DeepSpeed's own models was not taken: they cannot be read without importing it, and they do not know the top level.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ofa.sections.base import Section, nearest

Elements = Annotated[int, Field(ge=0)]
"""A number of elements; 5e8 is one too."""

ZERO = "zero_optimization"

DECIDED = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size and batch.micro_size",
    "managed_gradient_accumulation": "batch.global_size and batch.micro_size",
    "scheduler": "schedule",
    "data_types": "fp32, always",
    "gradient_allreduce_op": "engine.zero_stage: gradients are added, and losses are means over the global batch",
    "gradient_clipping": "optimizer.max_grad_norm",
    "fp16": "engine.precision, which knows fp32 and bf16: fp16 has too small a range for what is not rescaled",
    "bf16": "engine.precision",
    "bfloat16": "engine.precision",
    "torch_autocast": "engine.precision",
    "amp": "engine.precision",
    "steps_per_print": "log.every",
    "wandb": "log.tensorboard",
    "comet": "log.tensorboard",
    "csv_monitor": "log.every; metrics.jsonl is the record",
    "tensorboard": "log.tensorboard",
    "checkpoint": "checkpoint",
    "nebula": "checkpoint",
    "datastates_ckpt": "checkpoint",
    "compression_training": "pruning (DeepSpeed removed its compression)",
    "log_level": "the environment variable DEEPSPEED_LOG_LEVEL",
    f"{ZERO}.stage": "engine.zero_stage",
}
"""Keys whose values are generated, and what decides them."""

_ADAMW = (
    "the optimizer is AdamW (section optimizer), whose two moments masks reach; LAMB, Muon and 1-bit optimizers "
    "keep other state"
)
_ELSEWHERE = "it moves masters, moments or weights to where masks do not reach them"
_COPIES = "it keeps further copies of the weights, which masks do not reach"
_REMOVED = "DeepSpeed has removed it and would ignore it or stop"
_ORDER = "the order of the data is a pure function of the seed and the step (section data)"
_MEANS = "losses are means over the global batch, and it would scale gradients once more"
_SPLITS = "it splits or replaces layers, and masks belong to whole weights under their own names"
_UNTRIED = "nothing here needs it and no test holds masks against it"

_REFUSED_FOR = {
    _ADAMW: ("optimizer", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
             f"{ZERO}.save_muon_momentum_buffer_in_memory"),
    _ELSEWHERE: ("aio", f"{ZERO}.offload_optimizer", f"{ZERO}.offload_param", f"{ZERO}.cpu_offload",
                 f"{ZERO}.cpu_offload_param", f"{ZERO}.cpu_offload_use_pin_memory", f"{ZERO}.zenflow"),
    _COPIES: (f"{ZERO}.zero_hpz_partition_size", f"{ZERO}.zero_quantized_weights",
              f"{ZERO}.zero_quantized_nontrainable_weights", f"{ZERO}.zero_quantized_gradients",
              "weight_quantization"),
    "DeepCompile rewrites the step and moves weights inside it; use engine.compile": ("compile",),
    _REMOVED: ("eigenvalue", "elasticity", "graph_harvesting", "progressive_layer_drop", "quantize_training",
               "sparse_attention", "sparse_gradients", f"{ZERO}.mics_shard_size",
               f"{ZERO}.mics_hierarchical_params_gather", f"{ZERO}.elastic_checkpoint"),
    _ORDER: ("curriculum_learning", "data_efficiency", "dataloader_drop_last"),
    _MEANS: ("gradient_predivide_factor", "prescale_gradients"),
    _SPLITS: ("expert_parallel", "hybrid_engine", "pipeline", "seq_parallel_communication_data_type",
              "tensor_parallel", "use_data_before_expert_parallelism", "vocabulary_size"),
    "it starts runs of its own with other batch sizes": ("autotuning",),
    "it serves layers of Megatron only; lower batch.micro_size to save memory": ("activation_checkpointing",),
    _UNTRIED: ("disable_allgather", "timers", f"{ZERO}.compute_grad_norm", f"{ZERO}.load_from_fp32_weights",
               f"{ZERO}.stage3_model_persistence_threshold", f"{ZERO}.stage3_gather_16bit_weights_on_model_save",
               f"{ZERO}.stage3_gather_fp16_weights_on_model_save", f"{ZERO}.stage3_module_granularity_threshold",
               f"{ZERO}.stage3_use_all_reduce_for_fetch_params", f"{ZERO}.stage3_allgather_sequential",
               f"{ZERO}.ignore_unused_parameters", f"{ZERO}.legacy_stage1", f"{ZERO}.parameter_alignment",
               f"{ZERO}.memory_efficient_linear", f"{ZERO}.pipeline_loading_checkpoint",
               f"{ZERO}.override_module_apply", f"{ZERO}.log_trace_cache_warnings",
               f"{ZERO}.enable_sanity_checks", f"{ZERO}.leaf_module"),
}  # fmt: skip

REFUSED = {key: reason for reason, keys in _REFUSED_FOR.items() for key in keys}
"""Keys that DeepSpeed knows or knew, and why they are not passed on."""


class CommsLogger(Section):
    """DeepSpeed's record of collectives."""

    enabled: bool = False
    verbose: bool = False
    debug: bool = False
    prof_all: bool = True
    prof_ops: list[str] = []


class FlopsProfiler(Section):
    """DeepSpeed's profile of one step."""

    enabled: bool = False
    recompute_fwd_factor: Annotated[float, Field(ge=0.0)] = 0.0
    profile_step: Annotated[int, Field(gt=0)] = 1
    module_depth: int = -1
    top_modules: Annotated[int, Field(gt=0)] = 1
    detailed: bool = True
    output_file: str | None = None


class ZeroOptimization(Section):
    """How DeepSpeed cuts and overlaps its collectives."""

    allgather_bucket_size: Elements = 0
    allgather_partitions: bool = True
    contiguous_gradients: bool = True
    overlap_comm: bool = True
    reduce_bucket_size: Annotated[int, Field(gt=0)] = 1
    reduce_scatter: bool = True
    round_robin_gradients: bool = False
    use_multi_rank_bucket_allreduce: bool = True
    sub_group_size: Elements = 0
    stage3_max_live_parameters: Elements = 0
    stage3_max_reuse_distance: Elements = 0
    stage3_param_persistence_threshold: Elements = 0
    stage3_prefetch_bucket_size: Elements = 0


class PassedOn(Section):
    """Keys that a user may set: none of them moves or copies weights. Only what is given is passed on."""

    communication_data_type: Literal["fp32", "bf16"] = "fp32"
    comms_logger: CommsLogger = CommsLogger()
    disable_python_gc: bool = False
    dump_state: bool = False
    flops_profiler: FlopsProfiler = FlopsProfiler()
    memory_breakdown: bool = False
    wall_clock_breakdown: bool = False
    zero_optimization: ZeroOptimization = ZeroOptimization()


def check_deepspeed_keys(values: dict[str, Any]) -> None:
    """Hold the section engine.deepspeed against the lists above.

    Raises:
        ValueError: naming the first key that is decided elsewhere, refused, unknown or of a wrong type.
    """
    zero = values.get(ZERO, {})
    if not isinstance(zero, dict):
        raise ValueError(f"deepspeed.{ZERO} must be an object, found {json.dumps(zero)}")
    for key in values:
        _check_key(key, list(PassedOn.model_fields))
    for key in zero:
        _check_key(f"{ZERO}.{key}", [f"{ZERO}.{name}" for name in ZeroOptimization.model_fields])
    try:
        PassedOn.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        found = json.dumps(problem["input"], default=str)
        raise ValueError(f"deepspeed.{key}: {problem['msg']}, found {found}") from None


def _check_key(key: str, passed: list[str]) -> None:
    if key in DECIDED:
        raise ValueError(f"deepspeed.{key} is decided by {DECIDED[key]}: remove it here")
    if key in REFUSED:
        raise ValueError(f"deepspeed.{key} is refused: {REFUSED[key]}; remove it")
    if key not in passed:
        raise ValueError(
            f"deepspeed.{key} is no key of DeepSpeed, which would ignore it{nearest(key, [*passed, *DECIDED])}"
        )
