"""What DeepSpeed is told: its config, generated from ours, and the optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ofa.config import TrainingConfig
from ofa.data.plan import accumulation

REDUCE_BUCKET = 25_000_000
"""Elements reduced together: small enough that BERT-base has several buckets to overlap with the backward."""


def deepspeed_config(config: TrainingConfig, world_size: int, *, universal: bool = False) -> dict[str, Any]:
    """DeepSpeed's own config, generated from ours plus the pass-through section.

    Args:
        config: the run's.
        world_size: number of ranks.
        universal: whether checkpoints are loaded from the form of `ofa.engine.universal`.
    """
    extra = config.engine.deepspeed
    zero = {
        "stage": config.engine.zero_stage,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "reduce_bucket_size": REDUCE_BUCKET,
        "allgather_bucket_size": 500_000_000,
        **extra.get("zero_optimization", {}),
    }
    return {
        **extra,
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": config.batch.micro_size,
        "gradient_accumulation_steps": accumulation(config.batch, world_size),
        "gradient_clipping": config.optimizer.max_grad_norm,
        "bf16": {"enabled": config.engine.precision == "bf16"},
        # Gradients of micro-batches and of ranks are added in fp32: in bf16 sums would depend on how many there are.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": extra.get("communication_data_type", "fp32"),
        "gradient_allreduce_op": "mean" if divides_by_ranks(config) else "sum",
        "zero_optimization": zero,
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 10**12,
    }


def layout(config: TrainingConfig, world_size: int) -> dict[str, int]:
    """How the files of a checkpoint are divided; others have to be converted before they are loaded."""
    return {"world_size": world_size, "zero_stage": config.engine.zero_stage}


def divides_by_ranks(config: TrainingConfig) -> bool:
    """Whether DeepSpeed divides gradients by the number of ranks, which its ZeRO 3 cannot be told to leave; then losses
    must be multiplied by it, and a bf16 backward rounds alike for powers of two only. Below, it adds and does not
    divide: ZeRO 2 would do so in bf16, before it adds."""
    return config.engine.zero_stage == 3


def parameter_groups(
    module: nn.Module, scoped: Mapping[str, nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: scoped weights alone (one flat buffer aligned with the masks), other matrices, and the rest.

    Biases and LayerNorm parameters (every tensor of one dimension) are not decayed.
    """
    in_scope = {id(p) for p in scoped.values()}
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in in_scope], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in in_scope and p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in in_scope and p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
