"""The shard format: packed rows of token ids in tar files, and the manifest that describes them.

In: rows from `data_prep` (`ShardWriter`, `write_manifest`). Out: an opened and checked `Corpus`, whose records are read
by their offset (`read_record`), so that order and restart are the loader's alone.

A *row* is one training sequence of at most `sequence_length` tokens: one or more *segments*, each an example of its
own (`[CLS] ... [SEP]`), which attention keeps apart. A tar record holds many rows: `tokens.npy` (uint16, or uint32 for
vocabularies above 65,536; un-masked, no padding), `rows.npy` and `segments.npy` (uint32 offsets into the tokens, first
0, last the number of tokens; row offsets are a subset), and in sentence-pair data `second.npy` (uint32 offset into the
tokens where each segment's sentence B begins) and `labels.npy` (uint8, 1: B is a random next). Stock `webdataset` reads
the files.

One record per row was tried: tar headers then cost more than the tokens, and reading is 60 times slower.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ofa.config import command_that_makes
from ofa.files import beside, write_text

FORMAT = "sparse-ofa-shards"
VERSION = 1
SPLITS = ("train", "validation")
SPECIAL = ("cls", "sep", "mask", "pad")
"""Names of the special tokens in a manifest; tokens with other ids are maskable."""

COUNT_COLUMNS = ("tokens", "maskable", "segments")
"""Columns of a shard's per-row counts."""

_BLOCK = tarfile.BLOCKSIZE


class ShardError(ValueError):
    """Shards that cannot be used: the file, what was found, what was expected, what to do."""


# ---- reading ----------------------------------------------------------------------------------------------------


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
            counts.append(_decode_counts(shard, folder))
        self.counts: np.ndarray = np.concatenate(counts)
        """[total_rows, 3] int64: tokens, maskable tokens, segments of each row."""
        self.total_rows = first_row
        if len(self.counts) != first_row:
            raise ShardError(f"{folder}: the manifest lists {first_row} rows but counts {len(self.counts)}")


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
    def open(cls, path: str | Path) -> Corpus:
        """Open the folder that `python -m data_prep` made.

        Raises:
            ShardError: no folder or manifest, another version, a shard that is missing or has another size.
        """
        folder = Path(path)
        try:
            corpus = cls(folder, read_manifest(folder))
        except (KeyError, TypeError) as error:
            raise ShardError(f"{folder / 'manifest.json'}: damaged ({error!r}); {_remedy(path)}") from None
        for problem in corpus._sizes():
            raise ShardError(f"{problem}; {_remedy(path)}")
        return corpus

    def split(self, name: str) -> Split:
        """`train` or `validation`."""
        return self._splits[name]

    def verify(self) -> list[str]:
        """Read every byte and compare sha256 sums; what is wrong, one line a file."""
        problems = self._sizes()
        for path, shard in self._shards():
            if path.is_file() and path.stat().st_size == shard["bytes"] and sha256_of(path) != shard["sha256"]:
                problems.append(f"{path}: sha256 differs from the manifest's {shard['sha256']}")
        if not (self.tokenizer_path / "tokenizer.json").is_file():
            problems.append(f"{self.tokenizer_path / 'tokenizer.json'}: missing")
        elif tokenizer_fingerprint(self.tokenizer_path) != self.tokenizer_fingerprint:
            problems.append(f"{self.tokenizer_path}: not the tokenizer that the shards were made with")
        return problems

    def _shards(self) -> Iterable[tuple[Path, dict[str, Any]]]:
        for name in SPLITS:
            for shard in self.manifest["splits"][name]["shards"]:
                yield self.path / name / shard["name"], shard

    def _sizes(self) -> list[str]:
        problems = []
        for path, shard in self._shards():
            if not path.is_file():
                problems.append(f"{path}: missing, the manifest expects {shard['bytes']} bytes")
            elif path.stat().st_size != shard["bytes"]:
                problems.append(f"{path}: {path.stat().st_size} bytes, the manifest expects {shard['bytes']}")
        return problems


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        ShardError: it is absent, not JSON, or of another format or version.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; {_remedy(folder)}")
    if not path.is_file():
        raise ShardError(f"{folder}: no manifest.json, so its preparation is not finished; {_remedy(folder)}")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); {_remedy(folder)}") from None
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ShardError(f"{path}: expected {FORMAT} version {VERSION}, found {found}; {_remedy(folder)}")
    return manifest


def read_record(record: Record, *, handle: BinaryIO | None = None) -> Rows:
    """Read and decode one record.

    Args:
        handle: The open shard, if the caller keeps it open; its position is not used, so threads may share it.

    Raises:
        ShardError: the bytes are not there or their crc32 is another one.
    """
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
            f"{record.shard}: the record at byte {record.offset} (rows {record.first_row} to "
            f"{record.first_row + record.rows - 1}) is damaged: {len(data)} of {record.size} bytes, crc32 "
            f"{zlib.crc32(data):08x}, expected {record.crc32:08x}; prepare the data again or restore the file"
        )
    members = _members(data)
    names = ("tokens", "rows", "segments", "second", "labels")
    return Rows(*(members.get(name) for name in names))  # pyright: ignore[reportArgumentType]


def _members(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a span of ustar members, by the part of their name between key and `.npy`.

    `tarfile` would do, at several times the cost of decoding; these headers are our own and have one form.
    """
    arrays, position = {}, 0
    while position < len(data):
        header = data[position : position + _BLOCK]
        name = header[:100].rstrip(b"\0").decode()
        size = int(header[124:135], 8)
        start = position + _BLOCK
        arrays[name.split(".")[1]] = np.load(io.BytesIO(data[start : start + size]), allow_pickle=False)
        position = start + -(-size // _BLOCK) * _BLOCK
    return arrays


def _decode_counts(shard: dict[str, Any], folder: Path) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(shard["counts"]))
    counts = np.frombuffer(raw, "<u4").reshape(-1, len(COUNT_COLUMNS)).astype(np.int64)
    if len(counts) != shard["rows"]:
        raise ShardError(f"{folder / shard['name']}: {shard['rows']} rows in the manifest but {len(counts)} counts")
    return counts


def _remedy(path: str | Path) -> str:
    command = command_that_makes(str(path))
    return f"make it with: {command}" if command else "make it with: python -m data_prep --config <config> --output DIR"


# ---- writing ----------------------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """One example as the packer hands it on."""

    tokens: Sequence[int] | np.ndarray
    """Token ids, [CLS] and [SEP] included."""
    second: int = 0
    """Offset within `tokens` where sentence B begins (sentence pairs only)."""
    label: int = 0
    """1: B is a random next sentence."""


class ShardWriter:
    """Writes rows to a tar file that gets its name when it is complete.

    The same rows give the same bytes: no times, no owners.

    Args:
        path: The shard. `close` puts it there; until then it is a hidden file beside it.
        dtype: Of the tokens, see `token_dtype`.
        record_tokens: A record is closed before it would exceed this many tokens.
        special: Ids that are never masked.
        pairs: Write `second` and `labels`.
    """

    def __init__(self, path: Path, dtype: Any, record_tokens: int, *, special: Iterable[int] = (), pairs: bool = False):
        self.path = path
        self._dtype = np.dtype(dtype)
        self._record_tokens = record_tokens
        self._special = sorted(special)
        self._pairs = pairs
        self._partial = beside(path)
        self._file = self._partial.open("wb")
        self._records: list[dict[str, int]] = []
        self._counts: list[tuple[int, int, int]] = []
        self._start_record()

    def _start_record(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._filled = 0
        self._rows, self._segments = [0], [0]
        self._second: list[int] = []
        self._labels: list[int] = []

    def add_row(self, segments: Sequence[Segment]) -> None:
        """Append one row made of `segments`, in their order."""
        tokens = np.concatenate([np.asarray(segment.tokens, self._dtype) for segment in segments])
        if self._filled and self._filled + len(tokens) > self._record_tokens:
            self._write_record()
        for segment in segments:
            self._second.append(self._segments[-1] + segment.second)
            self._labels.append(segment.label)
            self._segments.append(self._segments[-1] + len(segment.tokens))
        self._tokens.append(tokens)
        self._filled += len(tokens)
        self._rows.append(self._filled)
        maskable = len(tokens) - sum(int(np.count_nonzero(tokens == one)) for one in self._special)
        self._counts.append((len(tokens), maskable, len(segments)))

    def close(self) -> dict[str, Any]:
        """Finish the file under its name; returns its entry for the manifest."""
        if self._filled:
            self._write_record()
        self._file.write(b"\0" * _BLOCK * 2)  # how a tar file ends
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        size, digest = self._partial.stat().st_size, sha256_of(self._partial)
        os.replace(self._partial, self.path)
        counts = np.array(self._counts, "<u4").reshape(-1, len(COUNT_COLUMNS))
        return {
            "name": self.path.name,
            "rows": len(counts),
            "tokens": int(counts[:, 0].sum(dtype=np.int64)),
            "segments": int(counts[:, 2].sum(dtype=np.int64)),
            "bytes": size,
            "sha256": digest,
            "counts": base64.b64encode(zlib.compress(counts.tobytes(), 6)).decode(),
            "records": self._records,
        }

    def abandon(self) -> None:
        """Give up: nothing stays on disk."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write_record(self) -> None:
        arrays = {
            "tokens": np.concatenate(self._tokens),
            "rows": np.array(self._rows, np.uint32),
            "segments": np.array(self._segments, np.uint32),
        }
        if self._pairs:
            arrays["second"] = np.array(self._second, np.uint32)
            arrays["labels"] = np.array(self._labels, np.uint8)
        data = b"".join(_member(f"{len(self._records):06d}.{name}.npy", array) for name, array in arrays.items())
        place = {"offset": self._file.tell(), "size": len(data)}
        self._file.write(data)
        self._records.append({**place, "rows": len(self._rows) - 1, "crc32": zlib.crc32(data)})
        self._start_record()


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json, with format, version and fingerprint added; it makes the folder a finished one."""
    complete = {"format": FORMAT, "version": VERSION, **manifest, "fingerprint": fingerprint_of(manifest)}
    write_text(folder / "manifest.json", json.dumps(complete, indent=1, ensure_ascii=True) + "\n")


def fingerprint_of(manifest: dict[str, Any]) -> str:
    """sha256 over what decides the training input: mode, length, tokenizer, and the shards' sums in order."""
    decisive = {
        "mode": manifest["mode"],
        "sequence_length": manifest["sequence_length"],
        "vocab_size": manifest["vocab_size"],
        "tokenizer": manifest["tokenizer"],
        "splits": {name: [one["sha256"] for one in manifest["splits"][name]["shards"]] for name in SPLITS},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over what decides the ids of a text: vocabulary, model settings, normaliser, pre-tokenizer.

    Settings of padding, truncation and templates do not count, as they change when a tokenizer is saved again.

    Raises:
        ShardError: the folder has no tokenizer.json.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ShardError(f"{path}: missing; load the tokenizer with AutoTokenizer and save it again to make the file")
    data = json.loads(path.read_text(encoding="utf-8"))
    added = sorted((token["id"], token["content"]) for token in data.get("added_tokens", []))
    decisive = {
        "model": {key: value for key, value in data["model"].items() if value is not None},
        "normalizer": data.get("normalizer"),
        "pre_tokenizer": data.get("pre_tokenizer"),
        "added_tokens": added,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _member(name: str, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + data + b"\0" * (-len(data) % _BLOCK)
