"""What the sources hand on: documents, grouped in units of work.

A unit is a fixed part of the input (a file, or a batch of small ones) that one worker reads from start to end. Units
are numbered in a fixed order, so nothing that follows depends on which worker reads which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class DataPrepError(ValueError):
    """Input or output that cannot be used: what was found, where, what to do."""


@dataclass(frozen=True)
class Document:
    """One text, independent of every other."""

    id: str
    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    """Documents of one group go to the same half of the corpus; None: this document alone."""


@dataclass(frozen=True)
class Unit:
    """A fixed part of the input."""

    inputs: tuple[str, ...]
    """What the source needs to find it again."""
    bytes: int
    """Its size on disk; 0 if unknown."""
    source: str = ""
    """Name of the source, where there are several."""


def batched_units(files: list[tuple[str, int]], size: int) -> list[Unit]:
    """Units of consecutive files, each closed once it holds `size` bytes; `files` are (name, bytes)."""
    units, names, total = [], [], 0
    for name, length in files:
        names.append(name)
        total += length
        if total >= size:
            units.append(Unit(tuple(names), total))
            names, total = [], 0
    return units + ([Unit(tuple(names), total)] if names else [])
