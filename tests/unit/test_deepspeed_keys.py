"""Keys of a DeepSpeed config: each that DeepSpeed knows is decided, passed on or refused, and each refusal says why."""

import json

import pytest

from ofa.config import ConfigError, RunConfig, load
from ofa.engine.process import deepspeed
from ofa.engine.settings import deepspeed_config
from ofa.sections.deepspeed_keys import DECIDED, REFUSED, ZERO, PassedOn, ZeroOptimization

REASONS = [
    ("optimizer.type=Lamb", "LAMB"),
    ("optimizer.type=OneBitAdam", "1-bit"),
    ("optimizer.type=Muon", "Muon"),
    ("zero_allow_untested_optimizer=true", "AdamW"),
    ("zero_optimization.mics_shard_size=2", "removed"),
    ("aio.block_size=8", "where masks do not reach"),
    ("expert_parallel.size=2", "whole weights"),
    ("gradient_predivide_factor=2", "scale gradients once more"),
    ("zero_optimization.offload_optimizer.device=cpu", "where masks do not reach"),
    ("zero_optimization.offload_param.device=cpu", "where masks do not reach"),
    ("zero_optimization.zenflow.topk_ratio=0.1", "where masks do not reach"),
    ("zero_optimization.zero_hpz_partition_size=2", "further copies"),
    ("zero_optimization.zero_quantized_weights=true", "further copies"),
    ("zero_optimization.zero_quantized_gradients=true", "further copies"),
    ("compile.deepcompile=true", "engine.compile"),
    ("fp16.enabled=true", "engine.precision"),
    ("torch_autocast.enabled=true", "engine.precision"),
    ("bf16.enabled=true", "engine.precision"),
    ("pipeline.stages=2", "whole weights"),
    ("tensor_parallel.autotp_size=2", "whole weights"),
    ("compression_training={}", "pruning"),
    ("sparse_attention.mode=fixed", "removed"),
    ("curriculum_learning.enabled=true", "order of the data"),
    ("data_efficiency.enabled=true", "order of the data"),
    ("prescale_gradients=true", "scale gradients once more"),
    ("zero_optimization.stage=2", "engine.zero_stage"),
    ("train_batch_size=8", "batch.global_size"),
    ("gradient_clipping=1.0", "optimizer.max_grad_norm"),
    ("zero_optimisation.stage=2", "did you mean zero_optimization?"),
    ("zero_optimization.reduce_bucket_sise=8", "did you mean zero_optimization.reduce_bucket_size?"),
    ("wall_clock_brakedown=true", "did you mean wall_clock_breakdown?"),
    ("zero_optimization.reduce_bucket_size=big", "valid integer"),
    ("zero_optimization.reduce_bucket_size=0", "greater than 0"),
    ("flops_profiler.enabled=maybe", "valid boolean"),
    ("flops_profiler.profile_stap=3", "flops_profiler.profile_stap"),
    ("comms_logger=true", "comms_logger"),
    ("communication_data_type=int9", "'fp32' or 'bf16'"),
    ("communication_data_type=fp16", "'fp32' or 'bf16'"),
    ("zero_optimization=3", "must be an object"),
]


@pytest.mark.parametrize(("override", "reason"), REASONS)
def test_each_refusal_has_its_own_reason(override, reason):
    with pytest.raises(ConfigError) as refused:
        load(RunConfig, "tiny/ofa_90.json", [f"engine.deepspeed.{override}"])
    key = override.partition("=")[0].split(".")[0]
    assert f"deepspeed.{key}" in str(refused.value) and reason in str(refused.value)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_every_refused_key_is_refused(key):
    *section, last = key.split(".")
    value = {section[0]: {last: {}}} if section else {last: {}}
    with pytest.raises(ConfigError, match=f"deepspeed.{key} is refused: "):
        load(RunConfig, "tiny/ofa_90.json", [f"engine.deepspeed={json.dumps(value)}"])


class Asked(dict):
    """A config that remembers which keys DeepSpeed looks for."""

    def __init__(self, values):
        super().__init__(values)
        self.keys_asked = set()

    def get(self, key, default=None):
        """As dict."""
        self.keys_asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.keys_asked.add(key)
        return super().__contains__(key)

    def keys(self):
        """As dict, whose `in` asks too."""
        return self


def test_every_key_that_deepspeed_reads_is_decided_passed_on_or_refused():
    """A release that reads another key fails here, so that someone decides about it."""
    asked = Asked({"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4})
    deepspeed.runtime.config.DeepSpeedConfig(asked)
    assert {"optimizer", "compile", "sparse_attention"} <= asked.keys_asked
    unknown = asked.keys_asked - set(DECIDED) - set(REFUSED) - set(PassedOn.model_fields)
    assert not unknown


def test_every_zero_key_of_deepspeed_is_decided_passed_on_or_refused():
    fields = deepspeed.runtime.zero.config.DeepSpeedZeroConfig.model_fields
    names = {field.alias or name for name, field in fields.items()}
    known = {key.removeprefix(f"{ZERO}.") for key in (*DECIDED, *REFUSED) if key.startswith(f"{ZERO}.")}
    assert names - known == set(ZeroOptimization.model_fields)


def test_what_is_passed_on_reaches_deepspeed_and_is_accepted_there():
    numbers = {name: 2_000_000 for name in ZeroOptimization.model_fields if "size" in name or "stage3" in name}
    switches = {"round_robin_gradients": True, "overlap_comm": False, "reduce_scatter": False}
    given = {
        "wall_clock_breakdown": True,
        "flops_profiler": {"enabled": True, "profile_step": 3, "output_file": "flops.txt"},
        "comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]},
        "communication_data_type": "bf16",
        "zero_optimization": {**numbers, **switches},
    }
    config = load(RunConfig, "tiny/ofa_90.json", [f"engine.deepspeed={json.dumps(given)}"])
    read = deepspeed.runtime.config.DeepSpeedConfig(deepspeed_config(config, 1))
    assert read.wall_clock_breakdown and read.flops_profiler_config.profile_step == 3
    assert read.comms_config.comms_logger.prof_ops == ["all_reduce"]
    assert read.zero_config.param_persistence_threshold == read.zero_config.reduce_bucket_size == 2_000_000
    assert read.zero_config.round_robin_gradients and read.zero_config.overlap_comm is False


def test_five_e_eight_is_a_number_of_elements():
    config = load(RunConfig, "tiny/ofa_90.json", ["engine.deepspeed.zero_optimization.reduce_bucket_size=5e8"])
    zero = deepspeed.runtime.config.DeepSpeedConfig(deepspeed_config(config, 1)).zero_config
    assert zero.reduce_bucket_size == 500_000_000
