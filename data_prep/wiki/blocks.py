"""The blocks of a bzip2 stream, each by itself: a dump of one long stream is read in parallel too.

A block begins at any bit, with 48 bits that hardly occur by chance (once in 30 terabytes), and needs nothing of those
before it: put between a header and an end it is a stream of its own, as `bzip2recover` does it.
"""

from __future__ import annotations

import bz2
import mmap
from collections.abc import Iterator

BLOCK, END = 0x314159265359, 0x177245385090
"""First bits of a block, and of a stream's end."""

_MAGIC_BITS, _CRC_BITS = 48, 32
_WINDOW = 1 << 20
"""Bytes that are searched at a time; a block has 900,000 at most."""

_RETRIES = 2
"""Times that a block that cannot be read is tried with the next one's bits: its own may look like a beginning."""


def next_block(data: mmap.mmap | bytes, bit: int) -> int | None:
    """Where the first block begins at a bit or behind it; None if none does."""
    return _next(data, bit, _PATTERNS[BLOCK])


def read_blocks(data: mmap.mmap | bytes, bit: int) -> Iterator[tuple[int, bytes | None]]:
    """Each block from the one that begins at `bit`: where it begins, and its bytes; None if they cannot be had.

    Args:
        data: Of the file.
        bit: Where a block begins.
    """
    start: int | None = bit
    while start is not None:
        text, stop = _read(data, start)
        yield start, text
        start = next_block(data, stop)


def breaks_off(data: mmap.mmap | bytes, bit: int) -> bool:
    """Whether the file ends in the block that begins at `bit`."""
    return _next(data, bit + _MAGIC_BITS, _PATTERNS[BLOCK] + _PATTERNS[END]) is None


def _read(data: mmap.mmap | bytes, start: int) -> tuple[bytes | None, int]:
    """The bytes of the block at `start`, and where it ends at the earliest."""
    first = stop = _end_of(data, start)
    for _ in range(_RETRIES + 1):
        try:
            return bz2.decompress(_as_stream(data, start, stop)), stop
        except (OSError, ValueError):
            if stop >= len(data) * 8:
                break
            stop = _end_of(data, stop)
    return None, first


def _end_of(data: mmap.mmap | bytes, start: int) -> int:
    found = _next(data, start + _MAGIC_BITS, _PATTERNS[BLOCK] + _PATTERNS[END])
    return len(data) * 8 if found is None else found


def _as_stream(data: mmap.mmap | bytes, start: int, stop: int) -> bytes:
    """The bits of a block as a stream: header, block, end, and the block's sum for the stream's."""
    raw = data[start // 8 : (stop + 7) // 8]
    count = stop - start
    bits = (int.from_bytes(raw) >> (-stop % 8)) & ((1 << count) - 1)
    crc = (bits >> (count - _MAGIC_BITS - _CRC_BITS)) & ((1 << _CRC_BITS) - 1) if count > 80 else 0
    whole = (((bits << _MAGIC_BITS) | END) << _CRC_BITS) | crc
    count += _MAGIC_BITS + _CRC_BITS
    padding = -count % 8
    return b"BZh9" + (whole << padding).to_bytes((count + padding) // 8)


def _patterns(magic: int) -> list[tuple[int, bytes, int, int]]:
    """For each of the eight places in a byte: the shift, the whole bytes, and mask and value of all seven."""
    found = []
    for shift in range(8):
        value = magic << (8 - shift)
        mask = ((1 << _MAGIC_BITS) - 1) << (8 - shift)
        found.append((shift, value.to_bytes(7)[1:6], mask, value))
    return found


_PATTERNS = {magic: _patterns(magic) for magic in (BLOCK, END)}


def _next(data: mmap.mmap | bytes, bit: int, patterns: list[tuple[int, bytes, int, int]]) -> int | None:
    """The first place at `bit` or behind it where one of the patterns stands."""
    begin = bit // 8
    while begin < len(data):
        stop = min(len(data), begin + _WINDOW)
        found = [_find(data, begin, stop, bit, one) for one in patterns]
        places = [place for place in found if place is not None]
        if places:
            return min(places)
        begin = stop if stop == len(data) else stop - 8
    return None


def _find(data: mmap.mmap | bytes, begin: int, stop: int, bit: int, one: tuple[int, bytes, int, int]) -> int | None:
    shift, whole, mask, value = one
    place = data.find(whole, begin + 1, stop)
    while place >= 0:
        start = (place - 1) * 8 + shift
        seven = int.from_bytes(data[place - 1 : place + 6].ljust(7, b"\0"))
        if start >= bit and seven & mask == value:
            return start
        place = data.find(whole, place + 1, stop)
    return None
