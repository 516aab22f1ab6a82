"""Exact duplicates from files of 64-bit hashes: the first occurrence in the fixed order of units stays.

The hashes are taken in partitions by their low bits, each small enough to sort at once, so memory is one byte a
document plus one partition. A set of hashes would take some 60 bytes a document.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PARTITION = 1_000_000
"""Hashes that are sorted together, about; 24 bytes each while they are."""


def duplicates(files: list[Path], partition: int = _PARTITION) -> list[np.ndarray]:
    """Positions in each file whose hash has occurred before, in that file or an earlier one.

    Args:
        files: uint64 little endian, in the order that decides which occurrence is the first.

    Returns:
        One ascending int64 array a file.
    """
    sizes = [path.stat().st_size // 8 for path in files]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    repeated = np.zeros(starts[-1], bool)
    parts = 1 << max(0, (int(starts[-1]) // partition).bit_length())
    for part in range(parts):
        hashes, positions = _partition(files, starts, part, parts)
        first = np.unique(hashes, return_index=True)[1]  # of equal hashes the earliest, as positions ascend
        later = np.ones(len(hashes), bool)
        later[first] = False
        repeated[positions[later]] = True
    return [np.flatnonzero(repeated[start:stop]) for start, stop in zip(starts[:-1], starts[1:], strict=True)]


def _partition(files: list[Path], starts: np.ndarray, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    hashes, positions = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for path, start in zip(files, starts, strict=False):
        found = np.fromfile(path, "<u8")
        mine = np.flatnonzero(found & np.uint64(parts - 1) == part)
        hashes.append(found[mine])
        positions.append(mine + start)
    return np.concatenate(hashes), np.concatenate(positions)
