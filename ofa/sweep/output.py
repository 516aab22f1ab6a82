"""What a cell prints, in `output.txt` of its run folder, and the line of it that says why it failed."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ofa.cluster.child import signal_name
from ofa.run_files import read_tail
from ofa.sweep.cells import Cell

NAME = "output.txt"

TAIL = 20_000
"""Bytes from the end among which the line is looked for."""


def output_path(cell: Cell) -> Path:
    """Where a cell's process writes to."""
    return cell.folder.path / NAME


def open_output(cell: Cell) -> BinaryIO:
    """The file that a cell's process writes to, below what earlier attempts have written."""
    cell.folder.path.mkdir(parents=True, exist_ok=True)
    return output_path(cell).open("ab")


def why_it_failed(output: Path, status: int) -> str:
    """The last error line of what a cell has printed, else its last line, else what its status says."""
    said = [line.strip() for line in read_tail(output, TAIL).splitlines() if line.strip()]
    found = [line for line in said if line.startswith("error:")] or said
    return failure(status, found[-1] if found else None)


def failure(status: int, words: str | None) -> str:
    """How a cell's process has ended, for people.

    Args:
        status: its exit status, minus a signal's number if that ended it.
        words: its last ones.
    """
    ended = f"ended by {signal_name(-status)}" if status < 0 else f"status {status}"
    return f"{ended}: {words.removeprefix('error: ')}" if words else ended
