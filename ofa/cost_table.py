"""What pre-training recipes cost on several numbers of ranks, one line each: from `ofa.cost`, so from configs alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ofa.config import RunConfig
from ofa.cost import Size, checkpoint_bytes, flops_per_token, model_size, rank_memory, wire_bytes
from ofa.data.plan import PlanError, accumulation

HEAD = (
    "config",
    "parameters",
    "ranks",
    "rows a step",
    "memory of a rank",
    "sent by a rank a step",
    "checkpoint",
    "hours",
)
"""Memory is without activations, which the micro-batch decides; hours are computing alone."""


def cost_lines(configs: Iterable[tuple[str, RunConfig]], ranks: Sequence[int], *, tflops: float) -> list[list[str]]:
    """Cells under `HEAD`.

    Args:
        configs: with the names to show them by.
        ranks: numbers of GPUs. Where a config's micro-batches do not divide a step by one, they are made smaller.
        tflops: 1e12 operations that one rank does in a second, of those that training asks for.

    Raises:
        PlanError: a step has fewer rows than ranks, or none of their shares is equal.
    """
    lines = []
    for name, config in configs:
        size = model_size(config.model)
        tokens = config.schedule.total_steps * config.batch.global_size * config.data.sequence_length
        seconds = tokens * flops_per_token(config) / (tflops * 1e12)
        for number in ranks:
            hours = seconds / number / 3600
            lines.append([name, f"{size.parameters:,}", f"{number:,}", *_line(config, size, number), f"{hours:,.1f}"])
    return lines


def _line(config: RunConfig, size: Size, ranks: int) -> list[str]:
    micro, rounds = _division(config, ranks)
    sent = wire_bytes(config, size, ranks)
    return [
        f"{ranks} x {micro} x {rounds}",
        _gigabytes(rank_memory(config, size, ranks)),
        "-" if sent is None else _gigabytes(sent),
        _gigabytes(checkpoint_bytes(config, size)),
    ]


def _division(config: RunConfig, ranks: int) -> tuple[int, int]:
    """Rows of a micro-batch, and micro-batches of a rank, with as many rows as the config has or the most below."""
    for micro in range(config.batch.micro_size, 0, -1):
        batch = config.batch.model_copy(update={"micro_size": micro})
        if batch.global_size % (micro * ranks) == 0:
            return micro, accumulation(batch, ranks)
    raise PlanError(f"batch.global_size {config.batch.global_size} cannot be shared by {ranks} ranks")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
