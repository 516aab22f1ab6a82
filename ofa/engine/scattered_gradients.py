"""At ZeRO 1 in bf16 each rank receives the sums of those gradients alone that it updates weights with.

DeepSpeed's bf16 optimizer keeps fp32 sums over micro-batches for all weights on every rank, in one flat buffer a
parameter group, and all-reduces them whole, although each rank steps with its own share of the buffer. A reduce-scatter
is half the traffic. It needs no change of DeepSpeed: the engine calls `reduce_gradients` of an optimizer that has one,
and what the norm is made of comes from `get_grads_for_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ofa import dist
from ofa.engine.process import deepspeed

PIECE = 2**16
"""Elements whose squares are added up in one go: a CPU adds in fp32, and over all of BERT-base's that loses 1 %."""


def scatter_gradients(engine: Any) -> None:
    """Let a DeepSpeed engine reduce in this way, if its optimizer is the one of ZeRO 1 in bf16."""
    if isinstance(engine.optimizer, deepspeed.runtime.bf16_optimizer.BF16_Optimizer):
        optimizer: Any = engine.optimizer
        scattered = _ScatteredGradients(optimizer, engine.communication_data_type)
        optimizer.reduce_gradients = scattered.reduce
        optimizer.get_grads_for_norm = scattered.for_norm


def norm_of(shares: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of flat fp32 tensors taken together, right to 1e-6 whatever their length."""
    return torch.nn.utils.get_total_norm([piece for share in shares for piece in share.split(PIECE)])


class _ScatteredGradients:
    def __init__(self, optimizer: Any, dtype: torch.dtype):
        """dtype: in which gradients travel and are added."""
        self._whole: list[Tensor] = optimizer.fp32_groups_gradients_flat
        self._own: list[Tensor] = optimizer.fp32_groups_gradient_flat_partition
        self._dtype = dtype
        self._norm: Tensor | None = None

    @torch.no_grad()
    def reduce(self, pipeline_parallel: bool = False) -> None:
        """Put the sum over ranks into this rank's share of each flat buffer, and take the norm of all shares (a
        collective call). What other ranks own keeps this rank's part of the sum, which nothing reads."""
        if dist.world_size() == 1:
            self._norm = norm_of(self._own)
            return
        for whole, own in zip(self._whole, self._own, strict=True):
            received = torch.empty_like(own, dtype=self._dtype)
            deepspeed.comm.reduce_scatter_fn(received, whole.to(self._dtype))
            own.copy_(received)
        square = norm_of(self._own).square()
        deepspeed.comm.all_reduce(square)
        self._norm = square.sqrt()

    def for_norm(self, for_clipping: bool = False) -> Any:
        """What DeepSpeed takes the norm of, by experts too, which there are none of; or what it clips."""
        return self._own if for_clipping else ([self._norm], {})
