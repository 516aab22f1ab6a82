"""Rows of a split by their number.

In: row ids. Out: their tokens and segments, end to end, as the shards hold them. Records are read whole and the last
ones stay decoded, because the plan shuffles rows within a window of records: a window is read once and used up.
Memory-mapping single rows was not taken: on a network file system each row would be a read of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from ofa.data.shards import Record, Split, read_record


class PackedRows(NamedTuple):
    """B rows end to end, without padding: T tokens in M segments."""

    tokens: np.ndarray
    """[T]"""
    lengths: np.ndarray
    """int64 [B], tokens of each row."""
    segment_counts: np.ndarray
    """int64 [B]"""
    segment_lengths: np.ndarray
    """int64 [M]"""
    second: np.ndarray | None
    """int64 [M], offset within the segment where sentence B begins."""
    labels: np.ndarray | None
    """int64 [M]"""


class RowReader:
    """Rows of a split by their number; the last `capacity` records stay decoded. Safe to share between threads."""

    def __init__(self, split: Split, capacity: int):
        self._records = split.records
        self._first_rows = np.array([record.first_row for record in split.records], dtype=np.int64)
        self._capacity = capacity
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row_ids: np.ndarray) -> PackedRows:
        """The rows `row_ids` (int64 [B]), in that order. Raises ShardError for a damaged record."""
        records = np.searchsorted(self._first_rows, row_ids, side="right") - 1
        decoded = {record: self._decoded(record) for record in dict.fromkeys(records.tolist())}
        within = (row_ids - self._first_rows[records]).tolist()
        pieces = [decoded[record].row(row) for record, row in zip(records.tolist(), within, strict=True)]
        tokens, segment_lengths, second, labels = zip(*pieces, strict=True)
        return PackedRows(
            tokens=np.concatenate(tokens),
            lengths=np.array([len(piece) for piece in tokens]),
            segment_counts=np.array([len(piece) for piece in segment_lengths]),
            segment_lengths=np.concatenate(segment_lengths),
            second=None if second[0] is None else np.concatenate(second),
            labels=None if labels[0] is None else np.concatenate(labels),
        )

    def _decoded(self, index: int) -> _Decoded:
        """The record, read at most once while it is kept, and without stopping threads that want other records."""
        with self._lock:
            slot = self._slots.setdefault(index, _Slot())
            self._slots.move_to_end(index)
            if len(self._slots) > self._capacity:
                self._slots.popitem(last=False)
        with slot.lock:
            if slot.decoded is None:
                slot.decoded = _Decoded(self._records[index])
            return slot.decoded


class _Slot:
    """A place for one decoded record; the lock is held while it is read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.decoded: _Decoded | None = None


class _Decoded:
    """One record, indexed by row."""

    def __init__(self, record: Record):
        rows = read_record(record)
        segments = rows.segments.astype(np.int64)
        self._tokens = rows.tokens
        self._bounds: list[int] = rows.rows.tolist()
        self._segment_bounds: list[int] = np.searchsorted(segments, rows.rows).tolist()
        self._segment_lengths = np.diff(segments)
        self._second = None if rows.second is None else rows.second - segments[:-1]
        self._labels = None if rows.labels is None else rows.labels.astype(np.int64)

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Tokens, segment lengths, offsets of sentence B and labels of one row."""
        tokens = self._tokens[self._bounds[row] : self._bounds[row + 1]]
        segments = slice(self._segment_bounds[row], self._segment_bounds[row + 1])
        second = None if self._second is None else self._second[segments]
        labels = None if self._labels is None else self._labels[segments]
        return tokens, self._segment_lengths[segments], second, labels
