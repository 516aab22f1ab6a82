"""One record of a shard: read by its place, held against its crc32, decoded and checked.

In: a `Record`, which the manifest places. Out: its `Rows`. Nothing is believed before the crc32 fits, and nothing is
handed on whose offsets do not fit each other. `tarfile` was not taken: decoding its headers costs several times as much
as ours, which have one form.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ofa.data.manifest import ShardError

MEMBERS = ("tokens", "rows", "segments", "second", "labels")
"""Arrays of a record; the last two only in sentence-pair data."""

REPAIR = "restore the file or prepare the data again; launch/verify.py checks the whole folder"

_BLOCK = tarfile.BLOCKSIZE

_ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|]u[124])', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.DOTALL
)
"""How an array of ours begins in the npy format, version 1. numpy's reader parses this text with `ast.literal_eval`,
which fails now and then where several threads do so (python/cpython#106905), and the loader's do."""


@dataclass(frozen=True)
class Record:
    """Where one record lies: bytes [offset, offset + size) of `shard`."""

    shard: Path
    offset: int
    size: int
    first_row: int
    """Number of its first row within the split."""
    rows: int
    crc32: int


@dataclass
class Rows:
    """Decoded rows of one record."""

    tokens: np.ndarray
    """[n_tokens] uint16 or uint32."""
    rows: np.ndarray
    """[n_rows + 1] uint32 offsets into `tokens`."""
    segments: np.ndarray
    """[n_segments + 1] uint32 offsets into `tokens`."""
    second: np.ndarray | None
    """[n_segments] uint32 offsets into `tokens` where sentence B begins; None without pairs."""
    labels: np.ndarray | None
    """[n_segments] uint8, 1 for a random next sentence; None without pairs."""

    def counts(self, special: Iterable[int]) -> np.ndarray:
        """int64 [n_rows, 3]: tokens, tokens that are not `special`, segments of each row."""
        starts, ends = self.rows[:-1].astype(np.int64), self.rows[1:].astype(np.int64)
        maskable = np.add.reduceat(~np.isin(self.tokens, list(special)), starts, dtype=np.int64)
        segments = np.diff(np.searchsorted(self.segments, self.rows))
        return np.stack([ends - starts, maskable, segments], axis=1)


def read_record(record: Record, *, handle: BinaryIO | None = None) -> Rows:
    """Read and decode one record.

    Args:
        handle: The open shard, if the caller keeps it open; its position is not used, so threads may share it.

    Raises:
        ShardError: the bytes are not there or their crc32 is another one.
    """
    data = _record_bytes(record, handle)
    try:
        members = _members(data)
        rows = Rows(*(members.get(name) for name in MEMBERS))  # pyright: ignore[reportArgumentType]
        problem = _contradiction(rows, record)
    except Exception as error:  # bytes that are no record of ours may break anything
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        raise ShardError(f"{_place(record)} is not what the manifest says: {problem}; {REPAIR}")
    return rows


def _record_bytes(record: Record, handle: BinaryIO | None) -> bytes:
    """A record as the file holds it, held against its crc32."""
    try:
        if handle is None:
            with record.shard.open("rb") as opened:
                data = os.pread(opened.fileno(), record.size, record.offset)
        else:
            data = os.pread(handle.fileno(), record.size, record.offset)
    except OSError as error:
        raise ShardError(f"{record.shard}: cannot be read ({error})") from error
    if len(data) != record.size or zlib.crc32(data) != record.crc32:
        raise ShardError(
            f"{_place(record)} is damaged: {len(data)} of {record.size} bytes, crc32 {zlib.crc32(data):08x}, expected "
            f"{record.crc32:08x}; {REPAIR}"
        )
    return data


def check_records(records: list[Record]) -> None:
    """Read the records of one shard and hold them against their crc32.

    Raises:
        ShardError: for the first that is damaged.
    """
    try:
        handle = records[0].shard.open("rb")
    except OSError as error:
        raise ShardError(f"{records[0].shard}: cannot be read ({error})") from error
    with handle:
        for record in records:
            _record_bytes(record, handle)


def _place(record: Record) -> str:
    last_row = record.first_row + record.rows - 1
    return f"{record.shard}: the record at byte {record.offset} (rows {record.first_row} to {last_row})"


def _contradiction(rows: Rows, record: Record) -> str | None:
    """What is wrong with the offsets of decoded rows, if anything."""
    if rows.tokens.dtype not in (np.uint16, np.uint32) or rows.tokens.ndim != 1:
        return f"tokens are {rows.tokens.dtype} {list(rows.tokens.shape)}"
    for name, offsets in (("rows", rows.rows), ("segments", rows.segments)):
        whole = len(offsets) and offsets[0] == 0 and offsets[-1] == len(rows.tokens)
        if not whole or bool((np.diff(offsets.astype(np.int64)) <= 0).any()):
            return f"offsets of {name} do not rise from 0 to {len(rows.tokens)}"
    if len(rows.rows) - 1 != record.rows:
        return f"{len(rows.rows) - 1} rows, expected {record.rows}"
    if not np.isin(rows.rows, rows.segments).all():
        return "a row begins inside a segment"
    pairs = [array for array in (rows.second, rows.labels) if array is not None]
    return None if all(len(array) == len(rows.segments) - 1 for array in pairs) else "pairs and segments differ"


def _members(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a span of ustar members, by the part of their name between key and `.npy`.

    `tarfile` and `np.load` would do, at several times the cost of decoding; these headers are ours, of one form.
    """
    arrays, position = {}, 0
    while position < len(data):
        header = data[position : position + _BLOCK]
        name = header[:100].rstrip(b"\0").decode()
        size = int(header[124:135], 8)
        start = position + _BLOCK
        arrays[name.split(".")[1]] = _array(data, start, start + size)
        position = start + -(-size // _BLOCK) * _BLOCK
    return arrays


def _array(data: bytes, start: int, end: int) -> np.ndarray:
    """The array that fills bytes [start, end), not copied.

    Raises:
        ValueError: it is none of ours, or does not end where the member does.
    """
    header = _ARRAY.match(data, start, end)
    if header is None:
        raise ValueError(f"no array of unsigned integers at byte {start}")
    dtype, length = np.dtype(header[1].decode()), int(header[2])
    if header.end() + dtype.itemsize * length != end:
        raise ValueError(f"{length} numbers of {dtype} do not fill bytes {header.end()} to {end}")
    return np.frombuffer(data, dtype, length, header.end())
