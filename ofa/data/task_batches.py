"""Micro-batches of task rows, padded to their longest row, and the counts of a global batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ofa.data.tensors import Tensors


@dataclass(frozen=True)
class TaskTotals:
    """Counts of one global batch, over all ranks."""

    counted: int
    """What the means of its losses divide by: rows, or labelled tokens (`tokens`)."""
    tokens: int
    """Real tokens, padding excluded."""


@dataclass
class TaskBatch(Tensors):
    """B rows of one forward on one rank, S tokens wide."""

    input_ids: Tensor
    """int64 [B, S], padded with the pad id."""
    attention_mask: Tensor
    """int64 [B, S], 0 at padding."""
    token_type_ids: Tensor
    """int64 [B, S]"""
    labels: Tensor | None
    """int64 [B]; float32 [B] (regression); int64 [B, 2] (questions); int64 [B, S], -100 where none (tokens)."""
    row_ids: Tensor
    """int64 [B], numbers of the rows within their split."""
