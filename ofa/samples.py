"""Which rows each rank has trained on, update by update, in a run's own folder; off unless `log.samples` asks for it.

    samples/rank-00000.jsonl   {"step": 7, "batch": 7, "rank": 0, "world_size": 2, "rows": [[51, 3], [17, 40]]}

A line is written when its update has been tried, from the micro-batches that the model was given, so it says what
happened and not what the plan had in mind. `step` is the update's and `batch` the number of its global batch, which a
skipped update moves and `step` does not; `rows` are row ids of the training split, micro-batch by micro-batch. Like
metrics.jsonl the files are cut back when a run continues, so that together they hold every batch once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch

from ofa import dist
from ofa.files import write_text


class Batch(Protocol):
    """Rows of one forward on one rank."""

    row_ids: torch.Tensor
    """[B] numbers of the rows within their split."""


FIELDS = {"step", "batch", "rank", "world_size", "rows"}


class SampleLog:
    """Appends this rank's lines; does nothing if it is not `active`."""

    def __init__(self, folder: Path, *, active: bool):
        self._path = folder / f"rank-{dist.rank():05d}.jsonl"
        self._active = active
        self._file: TextIO | None = None

    def append(self, step: int, batch: int, micro_batches: Sequence[Batch]) -> None:
        """Write the line of an update that was made, so that a killed process leaves it behind; reads the device
        once."""
        if not self._active:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        rows = torch.stack([one.row_ids for one in micro_batches]).tolist()
        place = {"step": step, "batch": batch, "rank": dist.rank(), "world_size": dist.world_size()}
        self._file.write(json.dumps({**place, "rows": rows}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Push the lines to the disk itself, before a checkpoint that counts on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())


def cut_back(folder: Path, step: int) -> None:
    """Forget, in the files of all ranks there ever were, the updates from `step` on and a broken last line (one rank,
    before any writes)."""
    for path in sorted(folder.glob("rank-*.jsonl")):
        kept = [line for line in read_lines(path) if line["step"] < step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of one rank's file in order; a last line that a kill has broken is left out.

    Raises:
        ValueError: another line is none of this log.
    """
    *lines, _broken = path.read_bytes().split(b"\n")  # what was written whole ends with a newline
    found = []
    for number, raw in enumerate(lines, start=1):
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict) or line.keys() != FIELDS:
            raise ValueError(f"{path}, line {number}: not a line of consumed samples; delete it to go on")
        found.append(line)
    return found


def consumed_rows(folder: Path) -> list[int]:
    """Row ids of all updates in the order of the plan, from the files of all ranks: update by update, and in each
    micro-batch m of rank r as number m * world_size + r.

    Raises:
        ValueError: an update between the first and the last is missing, or a rank's part of one.
    """
    updates: dict[int, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for line in read_lines(path):
            updates.setdefault(line["batch"], {})[line["rank"]] = line
    rows: list[int] = []
    for batch in range(min(updates, default=0), max(updates, default=-1) + 1):
        rows += _of_batch(folder, batch, updates.get(batch, {}))
    return rows


def _of_batch(folder: Path, batch: int, lines: dict[int, dict[str, Any]]) -> list[int]:
    """Row ids of one global batch, from the line of each rank."""
    worlds = {(line["world_size"], line["step"]) for line in lines.values()}
    if len(worlds) != 1 or sorted(lines) != list(range(next(iter(worlds))[0])):
        raise ValueError(
            f"{folder}: of batch {batch} there are lines of ranks {sorted(lines)}, not of all that read it"
        )
    in_turn = zip(*(lines[rank]["rows"] for rank in sorted(lines)), strict=True)
    return [row for micro_batches in in_turn for rows in micro_batches for row in rows]
