"""First pass: one unit of the input -> pieces of cleaned text, and a hash of every document.

A piece is a zstd-compressed JSON-lines file of about `shard_characters`; it becomes one shard. The unit's JSON file is
written last, so its presence says that the rest is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from data_prep import sources
from data_prep.clean import clean, fingerprint
from data_prep.counts import parted
from data_prep.documents import Document, Unit
from data_prep.done import leaves
from data_prep.tally import Tally
from data_prep.work import new_files
from ofa.config import DataPrepConfig
from ofa.files import open_text

_LEVEL = 3


@leaves(lambda config, unit, number, folder: folder / f"{number:05d}.json")
def extract(config: DataPrepConfig, unit: Unit, number: int, folder: Path) -> dict[str, Any]:
    """Read, clean and store unit `number`; returns what its JSON file says.

    `pieces`: name, `source`, `first` document within the unit, `documents`, `characters`; `counts`: see `clean`;
    `rejects`: a sample of what was dropped; `templates`: names of those that were not rendered, where there are any.
    """
    done = folder / f"{number:05d}.json"
    if done.is_file():
        return json.loads(done.read_text())
    counts = Tally(sample=config.clean.reject_samples)
    hashes: list[np.ndarray] = []
    pieces: list[dict[str, Any]] = []
    documents = _cleaned(config, unit, counts)
    with new_files(done) as building:
        first = next(documents, None)
        while first is not None:
            name = f"{number:05d}-{len(pieces):05d}"
            path = building / f"{name}.jsonl.zst"
            piece, found, first = _write_piece(path, first, documents, config.shard_characters)
            pieces.append({"name": name, "source": unit.source, "first": sum(map(len, hashes)), **piece})
            hashes.append(found)
        hashes_of_all = np.concatenate([np.empty(0, "<u8"), *hashes])
        (building / f"{number:05d}.hashes").write_bytes(hashes_of_all.tobytes())
        numbers, templates = parted(counts)
        result = {"source": unit.source, "pieces": pieces, "counts": numbers, "rejects": counts.rejects}
        result |= {"templates": templates} if templates else {}
        (building / done.name).write_text(json.dumps(result))
    return result


def read_piece(path: Path) -> Iterator[Document]:
    """The documents of a piece, in order."""
    with open_text(path) as file:
        for line in file:
            yield Document(*json.loads(line))


class CompressedLines:
    """A zstd file of JSON lines, whole when the block that writes it ends well."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> CompressedLines:
        self._file = self._path.open("wb")
        self._stream = zstandard.ZstdCompressor(_LEVEL).stream_writer(self._file, closefd=False)
        return self

    def add(self, value: Any) -> None:
        """Append one line."""
        self._stream.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._stream.close()
        self._file.close()


def _cleaned(config: DataPrepConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    for document in sources.read_unit(config, unit, counts):
        text = clean(document.text, config.clean, counts, document.id)
        if text is not None:
            yield Document(document.id, text, document.meta, document.group)


def _write_piece(
    path: Path, first: Document, rest: Iterator[Document], characters: int
) -> tuple[dict[str, int], np.ndarray, Document | None]:
    """Write documents until the piece is full; returns its counts, its hashes and the first document of the next."""
    written, hashes = 0, []
    following: Document | None = first
    with CompressedLines(path) as file:
        while following is not None and written < characters:
            file.add([following.id, following.text, following.meta, following.group])
            hashes.append(fingerprint(following.text))
            written += len(following.text)
            following = next(rest, None)
    return {"documents": len(hashes), "characters": written}, np.array(hashes, "<u8"), following
