"""Micro-batches of task rows, padded to their longest row, and the counts of a global batch.

In: encoded rows. Out: for each step of training the totals of the global batch and this rank's micro-batches, a pure
function of the step; for evaluation all rows once, the longest first.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ofa.config import BatchConfig
from ofa.data.ahead import step_batches
from ofa.data.plan import accumulation, rank_positions
from ofa.data.task_plan import TaskPlan, total_steps
from ofa.data.task_rows import IGNORED, TaskRows
from ofa.data.tasks import Kind, TaskError
from ofa.data.tensors import Tensors

WIDTH = 8
"""Batches are a multiple of this wide, which matrix units like."""


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

    @property
    def real(self) -> Tensor:
        """bool [B, S], False at padding."""
        return self.attention_mask.bool()


Step = tuple[TaskTotals, list[TaskBatch]]


class TaskEvaluation(NamedTuple):
    """A pass over all rows of a split."""

    batches: Iterator[TaskBatch]
    """This rank's share, of no more than micro_size rows each. Every rank has the same number of them, because under
    ZeRO 3 a forward is a collective call."""
    counted: int
    """The first so many batches are this rank's; what follows repeats rows and is not to be counted."""


class TaskBatcher:
    """Makes micro-batches of a split's rows and knows the totals of any of them."""

    def __init__(self, rows: TaskRows, kind: Kind, pad_id: int):
        self._rows = rows
        self._by_token = kind == "tokens"
        self._pad = pad_id
        self._starts = np.cumsum(rows.lengths) - rows.lengths
        self._longest = int(rows.lengths.max())
        self._counted = np.ones(len(rows), dtype=np.int64)
        if self._by_token:
            labelled = np.zeros(len(rows.tokens)) if rows.labels is None else rows.labels != IGNORED
            before = np.concatenate([[0], np.cumsum(labelled, dtype=np.int64)])
            self._counted = before[self._starts + rows.lengths] - before[self._starts]

    def empty_rows(self) -> np.ndarray:
        """Numbers of the rows in which nothing counts."""
        return np.flatnonzero(self._counted == 0)

    def totals(self, row_ids: np.ndarray) -> TaskTotals:
        """Counts over `row_ids`, int64 [n]."""
        return TaskTotals(int(self._counted[row_ids].sum()), int(self._rows.lengths[row_ids].sum()))

    def batch(self, row_ids: np.ndarray) -> TaskBatch:
        """The rows `row_ids`, int64 [B], as wide as their longest, rounded up to a multiple of WIDTH that is not above
        the longest row of the split."""
        rows, lengths = self._rows, self._rows.lengths[row_ids]
        width = min(-(-int(lengths.max()) // WIDTH) * WIDTH, self._longest)
        columns = np.arange(width)
        real = columns < lengths[:, None]
        places = (self._starts[row_ids, None] + columns)[real]

        def padded(values: np.ndarray, fill: int) -> Tensor:
            wide = np.full(real.shape, fill, dtype=np.int64)
            wide[real] = values[places]
            return torch.from_numpy(wide)

        labels = None
        if rows.labels is not None:
            labels = padded(rows.labels, IGNORED) if self._by_token else torch.from_numpy(rows.labels[row_ids])
        return TaskBatch(
            input_ids=padded(rows.tokens, self._pad),
            attention_mask=torch.from_numpy(real.astype(np.int64)),
            token_type_ids=padded(rows.token_types, 0),
            labels=labels,
            row_ids=torch.from_numpy(row_ids),
        )


class TaskLoader:
    """The training batches of one rank.

    With a CUDA `device`, batches arrive on it, copied one step ahead. Raises PlanError where the batch sizes do not
    divide, TaskError for rows in which nothing counts.
    """

    def __init__(
        self,
        rows: TaskRows,
        kind: Kind,
        pad_id: int,
        batch: BatchConfig,
        seed: int,
        *,
        workers: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ):
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self.accumulation = accumulation(batch, world_size)
        self._lengths = rows.lengths
        self._batch = batch
        self._rank, self._world_size = rank, world_size
        self._workers, self._device = workers, torch.device(device)
        self._plan = TaskPlan(rows.lengths, batch.global_size, seed)
        self._batcher = TaskBatcher(rows, kind, pad_id)
        empty = self._batcher.empty_rows()
        if len(empty):
            raise TaskError(
                f"{len(empty)} training rows have no word with a label and a token, first number {empty[0]}: a batch "
                "of such rows has nothing to learn; remove them"
            )

    def total_steps(self, epochs: float) -> int:
        """Steps of `epochs` passes over the rows, rounded up."""
        return total_steps(len(self._lengths), self._batch.global_size, epochs)

    def totals(self, step: int) -> TaskTotals:
        """Totals of the global batch of `step`."""
        return self._batcher.totals(self._row_ids(step))

    def global_batch(self, step: int) -> Step:
        """(Totals of the global batch, this rank's micro-batches on the CPU), a pure function of `step`."""
        row_ids = self._row_ids(step)
        mine = rank_positions(step, batch=self._batch, rank=self._rank, world_size=self._world_size)
        inside = mine - step * self._batch.global_size
        return self._batcher.totals(row_ids), [self._batcher.batch(row_ids[places]) for places in inside]

    def batches(self, start_step: int = 0, end_step: int | None = None) -> Generator[Step]:
        """`global_batch` of start_step, start_step + 1, ... (up to end_step, exclusive), prepared ahead by `workers`
        threads and on the loader's device. Close the iterator to stop the threads."""
        steps = count(start_step) if end_step is None else range(start_step, end_step)
        return step_batches(self.global_batch, steps, self._workers, self._device)

    def _row_ids(self, step: int) -> np.ndarray:
        """Rows of the global batch, the longest first: cut into micro-batches, these are of like length, and so are the
        ones that the ranks compute at the same time."""
        size = self._batch.global_size
        row_ids = self._plan.rows(np.arange(step * size, (step + 1) * size))[1]
        return row_ids[_longest_first(self._lengths[row_ids])]


def evaluation_batches(
    rows: TaskRows,
    kind: Kind,
    pad_id: int,
    *,
    micro_size: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> TaskEvaluation:
    """All rows once over all ranks, the longest first, so that memory that does not suffice is noticed at once.

    Micro-batch j belongs to rank j mod world_size; the last may be shorter. A rank that has one less than others gets
    the first again, uncounted.
    """
    order = _longest_first(rows.lengths)
    batcher = TaskBatcher(rows, kind, pad_id)
    own = range(rank * micro_size, len(order), world_size * micro_size)
    of_rank_zero = len(range(0, len(order), world_size * micro_size))
    starts = [*own, *[0] * (of_rank_zero - len(own))]
    batches = (batcher.batch(order[start : start + micro_size]).to(device) for start in starts)
    return TaskEvaluation(batches, len(own))


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    """The order that sorts by length, equal ones as they stand."""
    return np.argsort(-lengths, kind="stable")
