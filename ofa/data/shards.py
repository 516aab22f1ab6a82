"""The shard format: packed rows of token ids in tar files.

In: a folder that `data_prep` has made. Out: an opened and checked `Corpus`, whose records are read by their offset, so
that order and restart are the loader's alone. What a folder holds says `ofa.data.manifest`; one record is read by
`ofa.data.records` and written by `ofa.data.shard_writer`, whose names can be imported from here too.

A *row* is one training sequence of at most `sequence_length` tokens: one or more *segments*, each an example of its
own (`[CLS] ... [SEP]`), which attention keeps apart. A tar record holds many rows: `tokens.npy` (uint16, or uint32 for
vocabularies above 65,536; un-masked, no padding), `rows.npy` and `segments.npy` (uint32 offsets into the tokens, first
0, last the number of tokens; row offsets are a subset), and in sentence-pair data `second.npy` (uint32 offset into the
tokens where each segment's sentence B begins) and `labels.npy` (uint8, 1: B is a random next). Stock `webdataset` reads
the files.

One record per row was tried: tar headers then cost more than the tokens, and reading is 60 times slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ofa.data.manifest import (
    COUNT_COLUMNS,
    SPLITS,
    ShardError,
    decode_counts,
    fingerprint_of,
    read_manifest,
    repair,
    sha256_of,
    tokenizer_fingerprint,
    write_manifest,
)
from ofa.data.records import Record, Rows, check_records, read_record
from ofa.data.shard_writer import Segment, ShardWriter, token_dtype

__all__ = [
    "COUNT_COLUMNS",
    "Corpus",
    "Record",
    "Rows",
    "SPECIAL",
    "SPLITS",
    "Segment",
    "ShardError",
    "ShardWriter",
    "Split",
    "fingerprint_of",
    "read_manifest",
    "read_record",
    "sha256_of",
    "token_dtype",
    "tokenizer_fingerprint",
    "write_manifest",
]

SPECIAL = ("cls", "sep", "mask", "pad")
"""Names of the special tokens in a manifest; tokens with other ids are maskable."""

CHECKED_AT_START = 32 << 30
"""Bytes of shards that are read through before a run begins: some ten seconds. A larger corpus is checked record by
record as it is read, and whole by `launch/verify.py`."""


class Split:
    """The records of one half of the corpus and the counts of its rows."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]]):
        self.records: list[Record] = []
        counts = [np.zeros((0, len(COUNT_COLUMNS)), np.int64)]
        first_row = 0
        for shard in shards:
            for one in shard["records"]:
                where = (folder / shard["name"], one["offset"], one["size"])
                self.records.append(Record(*where, first_row, one["rows"], one["crc32"]))
                first_row += one["rows"]
            counts.append(decode_counts(shard))
        self.counts: np.ndarray = np.concatenate(counts)
        """[total_rows, 3] int64: tokens, maskable tokens, segments of each row."""
        self.total_rows = first_row


class ShardState(NamedTuple):
    """What a file of a prepared folder holds by its manifest, and what is wrong with it."""

    path: Path
    rows: int | None
    tokens: int | None
    problem: str | None


class Corpus:
    """A prepared data folder, opened and checked."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest
        self.mode: str = manifest["mode"]
        self.sequence_length: int = manifest["sequence_length"]
        self.vocab_size: int = manifest["vocab_size"]
        self.special: dict[str, int] = manifest["tokenizer"]["special"]
        self.tokenizer_fingerprint: str = manifest["tokenizer"]["fingerprint"]
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_path = path / "tokenizer"
        self._splits = {name: Split(path / name, manifest["splits"][name]["shards"]) for name in SPLITS}

    @classmethod
    def described(cls, path: str | Path) -> Corpus:
        """The folder as its manifest describes it; its shards are not looked at.

        Raises:
            ShardError: no folder or manifest, another version, or a damaged manifest.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        try:
            return cls(folder, manifest)
        except ValueError as error:
            raise ShardError(f"{folder / 'manifest.json'}: damaged ({error}); {repair(path)}") from None

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Open the folder that `python -m data_prep` made.

        Raises:
            ShardError: as `described`, or a shard that is missing or has another size.
        """
        corpus = cls.described(path)
        for shard_path, shard in corpus._shards():
            problem = _size_problem(shard_path, shard)
            if problem is not None:
                raise ShardError(f"{shard_path}: {problem}; {repair(path)}")
        return corpus

    def split(self, name: str) -> Split:
        """`train` or `validation`."""
        return self._splits[name]

    def inspect(self) -> list[ShardState]:
        """Read every byte: sha256 sums, counts of every row, ids within the vocabulary, and the tokenizer."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            states = list(threads.map(lambda one: self._state(*one), self._shards()))
        problems = self._tokenizer_problems()
        return [*states, ShardState(self.tokenizer_path, None, None, "; ".join(problems) or None)]

    def verify(self) -> list[str]:
        """What `inspect` finds wrong, one line a file."""
        return [f"{state.path}: {state.problem}" for state in self.inspect() if state.problem]

    def _state(self, path: Path, shard: dict[str, Any]) -> ShardState:
        problem = _size_problem(path, shard)
        if problem is None and sha256_of(path) != shard["sha256"]:
            problem = f"sha256 differs from the manifest's {shard['sha256']}"
        if problem is None:
            problem = self._content_problem(path, decode_counts(shard))
        return ShardState(path, shard["rows"], shard["tokens"], problem)

    def _content_problem(self, path: Path, counts: np.ndarray) -> str | None:
        """What is wrong inside a shard whose sum is right: its writer's mistake, or a forged manifest's."""
        first = 0
        for record in (record for split in self._splits.values() for record in split.records if record.shard == path):
            try:
                rows = read_record(record)
            except ShardError as error:
                return str(error)
            largest = int(rows.tokens.max(initial=0))
            if largest >= self.vocab_size:
                return f"token id {largest}, the vocabulary has {self.vocab_size} entries"
            if not np.array_equal(rows.counts(self.special.values()), counts[first : first + record.rows]):
                return f"rows {record.first_row} to {record.first_row + record.rows - 1} are counted differently"
            first += record.rows
        return None

    def check_records(self) -> None:
        """Read every record once, unless the corpus is larger than CHECKED_AT_START; the tokenizer too.

        Raises:
            ShardError: for the first that is damaged, with what to do.
        """
        for problem in self._tokenizer_problems():
            raise ShardError(f"{self.tokenizer_path}: {problem}; {repair(self.path)}")
        if sum(shard["bytes"] for _, shard in self._shards()) > CHECKED_AT_START:
            return
        by_shard = [list(group) for split in SPLITS for _, group in groupby(self.split(split).records, _shard_of)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            for _ in threads.map(check_records, by_shard):
                pass

    def _tokenizer_problems(self) -> list[str]:
        try:
            found = tokenizer_fingerprint(self.tokenizer_path)
        except ShardError as error:
            return [str(error)]
        return [] if found == self.tokenizer_fingerprint else ["not the tokenizer that the shards were made with"]

    def _shards(self) -> Iterable[tuple[Path, dict[str, Any]]]:
        for name in SPLITS:
            for shard in self.manifest["splits"][name]["shards"]:
                yield self.path / name / shard["name"], shard


def _size_problem(path: Path, shard: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"missing, the manifest expects {shard['bytes']} bytes"
    size = path.stat().st_size
    return None if size == shard["bytes"] else f"{size} bytes, the manifest expects {shard['bytes']}"


def _shard_of(record: Record) -> Path:
    return record.shard
