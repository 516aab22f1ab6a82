"""The plan of a task's rows: which row stands at which position of the endless training sequence.

In: the rows' lengths, the global batch size G, a seed. Out: (epoch, row id) of any position >= 0, so that every global
batch has rows of like length and padding is small. An epoch is one pass over all rows, in an order of its own: a
permutation, cut into windows; a window's rows are sorted by length and cut where global batches end, and these pieces
are laid out in a random order. Everything is a pure function of (seed, epoch, position), as in `ofa.data.plan`.

Sorting a whole epoch would pad less and would put the same rows together every time; drawing single batches by length
would lose the property that every row comes once.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ofa.data import counter

WINDOW = 50
"""Global batches whose rows are sorted together: at 32 rows a batch, the lengths within one differ by a fiftieth of the
distribution, and which 1600 rows these are changes with every epoch."""


class TaskPlan:
    """Order of N rows under `seed`. Safe to share between threads."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        """lengths: int64 [N], tokens of each row; batch_size: rows of a global batch."""
        assert len(lengths) and batch_size > 0
        self.total_rows = len(lengths)
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch_rows = lru_cache(maxsize=2)(self._compute_epoch_rows)

    def rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, row ids), int64 as long as `positions` (int64, each >= 0)."""
        epochs, within = np.divmod(positions, self.total_rows)
        row_ids = np.empty_like(within)
        for epoch in set(epochs.tolist()):
            of_epoch = epochs == epoch
            row_ids[of_epoch] = self._epoch_rows(epoch)[within[of_epoch]]
        return epochs, row_ids

    def _compute_epoch_rows(self, epoch: int) -> np.ndarray:
        """Row ids of one epoch in their order, int64 [N]."""
        order = counter.permutation(counter.key(self._seed, "task rows", epoch), self.total_rows)
        bounds = self._batch_bounds(epoch)
        for first in range(0, len(bounds) - 1, WINDOW):
            inside = bounds[first : first + WINDOW + 1]
            rows = order[inside[0] : inside[-1]]
            by_length = rows[np.argsort(self._lengths[rows], kind="stable")]
            order[inside[0] : inside[-1]] = self._laid_out(by_length, np.diff(inside), epoch, first)
        return order

    def _laid_out(self, rows: np.ndarray, sizes: np.ndarray, epoch: int, first: int) -> np.ndarray:
        """Sorted rows, cut into one run for each batch; the shortest go to a random batch, and so on. `sizes`: rows of
        each batch in its place."""
        places = counter.permutation(counter.key(self._seed, "task batches", epoch, first), len(sizes))
        pieces = np.split(rows, np.cumsum(sizes[places])[:-1])
        return np.concatenate([pieces[place] for place in np.argsort(places)])

    def _batch_bounds(self, epoch: int) -> np.ndarray:
        """Positions within the epoch at which a global batch begins or ends, from 0 to N. The first and the last batch
        of an epoch are shared with its neighbours unless G divides N."""
        begin = epoch * self.total_rows
        batches = np.arange(begin // self._batch_size + 1, -(-(begin + self.total_rows) // self._batch_size))
        return np.concatenate([[0], batches * self._batch_size - begin, [self.total_rows]])


def total_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps of `batch_size` rows in which all `rows` are seen `epochs` times, rounded up."""
    return math.ceil(Fraction(str(epochs)) * rows / batch_size)  # as written: 0.1 is a tenth
