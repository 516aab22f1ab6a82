"""Dump files in parts, and the bytes of a part.

A part is a range of bytes of the file. It owns every page that begins in it, and reads on to the end of its last page;
so plain XML may be cut anywhere, and bzip2 where one of its streams begins. Those places are in the index that
Wikimedia publishes beside a multistream dump; where it is missing they are found by their headers. A long file of one
stream is cut where blocks begin (`data_prep.wiki.blocks`).
"""

from __future__ import annotations

import bz2
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.wiki.blocks import breaks_off, next_block, read_blocks
from ofa.files import DAMAGE, open_bytes

CHUNK = 1 << 20
STREAM = re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)")
"""Header of a bzip2 stream with that of its first block, or with its end if it is empty."""


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `stop` of a file; -1: to its end."""

    path: str
    start: int = 0
    stop: int = -1
    in_bits: bool = False
    """`start` and `stop` count bits, where blocks of a bzip2 stream begin."""

    def __str__(self) -> str:
        return f"{self.path}|{'b' if self.in_bits else ''}{self.start}|{self.stop}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """What `str` made."""
        path, start, stop = text.rsplit("|", 2)
        return cls(path, int(start.removeprefix("b")), int(stop), start.startswith("b"))


@dataclass(frozen=True)
class Chunk:
    """Some bytes of a dump, decompressed."""

    data: bytes
    is_own: bool
    """In the part, and not behind it."""
    lost: str | None = None
    """What is wrong with the bytes that should stand here; those that follow do not join what came before."""


def parts(path: Path, size: int) -> list[Part]:
    """The file in parts of about `size` bytes of the file."""
    total = path.stat().st_size
    if path.suffix == ".xml":
        starts = list(range(0, max(total, 1), size))
    elif path.suffix == ".bz2":
        streams = stream_starts(path)
        if len(streams) == 1 and total > 2 * size:
            return _block_parts(path, size)
        starts = _every(streams, size)
    else:
        starts = [0]
    return [Part(str(path), start, stop) for start, stop in zip(starts, [*starts[1:], -1], strict=True)]


def stream_starts(path: Path) -> list[int]:
    """Where the streams of a bzip2 file begin: from its index, or by their headers."""
    index = index_of(path)
    if index is not None:
        found = {0}
        with bz2.open(index, "rt", encoding="utf-8") if index.suffix == ".bz2" else index.open() as lines:
            for line in lines:
                offset = line.partition(":")[0]
                if offset.isdigit():
                    found.add(int(offset))
        return sorted(found)
    if path.stat().st_size == 0:
        return [0]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sorted({0, *(match.start() for match in STREAM.finditer(data))})


def index_of(path: Path) -> Path | None:
    """The index beside a multistream dump."""
    name = path.name.replace("multistream", "multistream-index").replace(".xml", ".txt")
    candidates = (path.with_name(name), path.with_name(name.removesuffix(".bz2")))
    return next((one for one in candidates if name != path.name and "-index" in name and one.is_file()), None)


def beginning(path: Path) -> bytes:
    """First bytes of a file, decompressed if they can be."""
    chunk = next(read_part(Part(str(path))), None)
    if chunk is not None and chunk.lost is None:
        return chunk.data
    with path.open("rb") as file:
        return file.read(CHUNK)


def read_part(part: Part) -> Iterator[Chunk]:
    """The bytes of a part, then those behind it."""
    path = Path(part.path)
    if path.suffix == ".xml":
        return _read_plain(path, part)
    if part.in_bits:
        return _read_blocks(path, part)
    return _read_streams(path, part) if path.suffix == ".bz2" else _read_compressed(path)


def _block_parts(path: Path, size: int) -> list[Part]:
    """One long stream, cut at the first block behind every so many bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = (next_block(data, place * 8) for place in range(0, len(data), size))
        starts = list(dict.fromkeys(start for start in found if start is not None))
    if not starts:
        return [Part(str(path))]
    return [Part(str(path), start, stop, True) for start, stop in zip(starts, [*starts[1:], -1], strict=True)]


def _every(starts: list[int], size: int) -> list[int]:
    """Of these places, ones that are at least `size` apart."""
    kept = starts[:1]
    for start in starts[1:]:
        if start - kept[-1] >= size:
            kept.append(start)
    return kept


def _read_plain(path: Path, part: Part) -> Iterator[Chunk]:
    with path.open("rb") as file:
        file.seek(part.start)
        left = part.stop - part.start if part.stop >= 0 else None
        while data := file.read(CHUNK if not left else min(CHUNK, left)):
            yield Chunk(data, left is None or left > 0)
            left = None if left is None else max(0, left - len(data))


def _read_compressed(path: Path) -> Iterator[Chunk]:
    try:
        with open_bytes(path) as file:
            while data := file.read(CHUNK):
                yield Chunk(data, True)
    except DAMAGE as error:
        yield Chunk(b"", True, f"truncated or damaged ({error})")


def _read_streams(path: Path, part: Part) -> Iterator[Chunk]:
    with path.open("rb") as file:
        start: int | None = part.start
        while start is not None:
            is_own = part.stop < 0 or start < part.stop
            start = yield from _read_stream(file, start, is_own)


def _read_blocks(path: Path, part: Part) -> Iterator[Chunk]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, text in read_blocks(data, part.start):
            is_own = part.stop < 0 or start < part.stop
            if text is None:
                cut = f"truncated: the file ends at byte {len(data)}, in the" if breaks_off(data, start) else "broken"
                yield Chunk(b"", is_own, f"{cut} bzip2 block at byte {start // 8}")
            else:
                yield Chunk(text, is_own)


def _read_stream(file: BinaryIO, start: int, is_own: bool) -> Iterator[Chunk]:
    """The bytes of one stream; returns where the next begins, None at the end of the file."""
    file.seek(start)
    unpacker, place = bz2.BZ2Decompressor(), start
    while not unpacker.eof:
        data = file.read(CHUNK) if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            if place > start:
                said = f"truncated: the file ends at byte {place}, and its bzip2 stream at byte {start} has no end"
                yield Chunk(b"", is_own, said)
            return None
        place += len(data)
        try:
            text = unpacker.decompress(data, CHUNK)
        except OSError as error:
            yield Chunk(b"", is_own, f"broken bzip2 stream at byte {start} ({error})")
            return _next_stream(file, start + 1)
        if text:
            yield Chunk(text, is_own)
    following = place - len(unpacker.unused_data)
    if unpacker.unused_data or file.read(1):
        file.seek(following)
        if not STREAM.match(file.read(10)):
            yield Chunk(b"", is_own, f"no bzip2 stream at byte {following}, where one should begin")
            return _next_stream(file, following + 1)
        return following
    return None


def _next_stream(file: BinaryIO, start: int) -> int | None:
    """Where the first stream behind a place begins."""
    file.seek(start)
    before, place = b"", start
    while data := file.read(CHUNK):
        match = STREAM.search(before + data)
        if match is not None:
            return place - len(before) + match.start()
        place += len(data)
        before = (before + data)[-9:]
    return None
