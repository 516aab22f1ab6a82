"""Rows to a shard: a tar file of records that gets its name when it is complete.

In: rows of segments, in their order. Out: the file, and its entry for the manifest with the place, crc32 and counts of
everything in it. `webdataset`'s own writer was not taken: it writes under the final name and stamps times.
"""

from __future__ import annotations

import base64
import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ofa.data.manifest import COUNT_COLUMNS, sha256_of
from ofa.files import beside

_BLOCK = tarfile.BLOCKSIZE


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


def _member(name: str, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + data + b"\0" * (-len(data) % _BLOCK)
