"""The data plan: which row stands at which position of the endless training sequence.

In: the records of a split, a seed, a window. Out: (epoch, row id) of any position >= 0. An epoch is one pass over all
rows; inside it whole shards are permuted, and rows are permuted within windows of consecutive records of that order,
so a network file system sees large reads while neighbours of the corpus part. Everything is a pure function of
(seed, epoch, position), so a run's whole data state is its step: no order is replayed on resume, and the sequence of
global batches does not know the world size.

A permutation of all rows would mix better, and would make every read a random one.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

import numpy as np

from ofa.config import BatchConfig
from ofa.data import counter
from ofa.data.shards import Split


class PlanError(ValueError):
    """Batch sizes, world size and corpus do not fit together."""


class Plan:
    """Order of the rows of `split` under `seed`, shuffled within `window` records. Safe to share between threads."""

    def __init__(self, split: Split, seed: int, window: int):
        self.total_rows = split.total_rows
        self._seed = seed
        self._window = window
        self._first_rows = np.array([record.first_row for record in split.records], dtype=np.int64)
        self._row_counts = np.array([record.rows for record in split.records], dtype=np.int64)
        shards = [len(list(group)) for _, group in groupby(record.shard for record in split.records)]
        self._shards = np.split(np.arange(len(split.records)), np.cumsum(shards)[:-1])
        self._epoch_order = lru_cache(maxsize=2)(self._compute_epoch_order)
        self._window_rows = lru_cache(maxsize=4)(self._compute_window_rows)

    def row(self, position: int) -> tuple[int, int]:
        """(epoch, row id) at one position >= 0."""
        epochs, row_ids = self.rows(np.array([position]))
        return int(epochs[0]), int(row_ids[0])

    def rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, row ids), int64 as long as `positions` (int64, each >= 0)."""
        epochs, within = np.divmod(positions, self.total_rows)
        row_ids = np.empty_like(within)
        for epoch in set(epochs.tolist()):
            of_epoch = np.flatnonzero(epochs == epoch)
            _, starts = self._epoch_order(epoch)
            windows = np.searchsorted(starts, within[of_epoch], side="right") - 1
            for window in set(windows.tolist()):
                chosen = of_epoch[windows == window]
                row_ids[chosen] = self._window_rows(epoch, window)[within[chosen] - starts[window]]
        return epochs, row_ids

    def _compute_epoch_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Records in the epoch's order, and the position inside the epoch at which each window starts."""
        shards = counter.permutation(counter.key(self._seed, "shards", epoch), len(self._shards))
        records = np.concatenate([self._shards[shard] for shard in shards])
        ends = np.cumsum(self._row_counts[records])
        return records, np.concatenate([[0], ends])[:-1][:: self._window]

    def _compute_window_rows(self, epoch: int, window: int) -> np.ndarray:
        """Row ids of one window in their shuffled order, int64."""
        records, _ = self._epoch_order(epoch)
        inside = records[window * self._window : (window + 1) * self._window]
        counts = self._row_counts[inside]
        row_ids = np.arange(counts.sum()) + np.repeat(self._first_rows[inside] - (np.cumsum(counts) - counts), counts)
        return row_ids[counter.permutation(counter.key(self._seed, "rows", epoch, window), len(row_ids))]


def accumulation(batch: BatchConfig, world_size: int) -> int:
    """Micro-batches of one rank in one optimizer step: global_size / (micro_size * world_size).

    Raises PlanError if that is no whole number, naming the nearest sizes that are.
    """
    together = batch.micro_size * world_size
    if batch.global_size % together == 0:
        return batch.global_size // together
    lower = batch.global_size // together * together
    sizes = [str(size) for size in (lower, lower + together) if size]
    share, rest = divmod(batch.global_size, world_size)
    micro = [size for size in range(1, batch.global_size + 1) if rest == 0 and share % size == 0]
    nearest = sorted(sorted(micro, key=lambda size: abs(size - batch.micro_size))[:2])
    advice = f", or batch.micro_size {' or '.join(map(str, nearest))}" if nearest else ""
    raise PlanError(
        f"batch.global_size {batch.global_size} is not a multiple of micro_size {batch.micro_size} * world size "
        f"{world_size} = {together}; set batch.global_size to {' or '.join(sizes)}{advice}"
    )


def micro_batch_numbers(batch: BatchConfig, rank: int, world_size: int) -> range:
    """Which micro-batches of a global batch are those of `rank`, in its order: its micro-batch m is number
    m * world_size + r, so that every number of ranks cuts the same micro-batches."""
    return range(rank, accumulation(batch, world_size) * world_size, world_size)


def rank_positions(step: int, *, batch: BatchConfig, rank: int, world_size: int) -> np.ndarray:
    """Positions that `rank` reads in `step`, int64 [accumulation, micro_size].

    Step s covers positions s * G ... (s + 1) * G - 1, the micro-batches in the order of `micro_batch_numbers`.
    """
    micro = batch.micro_size
    numbers = np.array(micro_batch_numbers(batch, rank, world_size))
    return step * batch.global_size + numbers[:, None] * micro + np.arange(micro)
