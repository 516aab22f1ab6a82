"""The numbers of a run, one dict a line in `metrics.jsonl`, mirrored to TensorBoard.

`metrics.jsonl` is the record; reports and comparisons read it, and TensorBoard's event files are rebuilt from it when a
run resumes, so the two always agree. TensorBoard's own writer thread is not used: it buffers, and a killed run would
leave event files behind the record. Only rank 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# protobuf makes these classes at run time
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from ofa.files import write_text

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"
NOT_A_MEASUREMENT = ("step", "time")
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers, and most readers refuse Python's bare NaN: they are written as these strings."""


class MetricsLog:
    """Appends lines to `<run folder>/metrics.jsonl` and scalars to `<run folder>/tensorboard/`.

    Args:
        folder: the run folder, which exists.
        tensorboard: whether to mirror.
        active: False on every rank but 0, where all methods do nothing.
    """

    def __init__(self, folder: str | Path, *, tensorboard: bool = True, active: bool = True):
        self.path = Path(folder) / METRICS_FILE
        self._events = Path(folder) / EVENTS_FOLDER if tensorboard and active else None
        self._active = active
        self._file = None
        self._writer = None

    def append(self, line: dict[str, Any]) -> None:
        """Write one line, which has at least `step`; it is on its way to the disk when this returns.

        A line without `time` gets one (seconds since 1970), which is also its time in TensorBoard. Values are numbers
        (also numpy's and torch's), strings, booleans or None; None and strings are not mirrored.
        """
        if not self._active:
            return
        line = {key: _plain(value) for key, value in line.items()}
        line.setdefault("time", round(time.time(), 3))
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(_encode(line) + "\n")
        self._file.flush()
        if self._events is not None:
            if self._writer is None:
                self._writer = EventFile(_next_event_file(self._events))
            self._writer.add(line)

    def sync(self) -> None:
        """Push the lines to the disk itself, before a checkpoint that counts on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def cut_back(self, step: int) -> None:
        """Forget every line of `step` or later, and a broken last line: what a run that resumes at `step` writes again.

        The record is replaced atomically; the event files are rebuilt from what is left of it.
        """
        if not self._active:
            return
        self.close()
        kept = [line for line in read_metrics(self.path) if line["step"] < step]
        write_text(self.path, "".join(_encode(line) + "\n" for line in kept))
        if self._events is not None:
            rebuild_events(self._events, kept)

    def close(self) -> None:
        """Close the files; a later `append` opens them again."""
        for file in (self._file, self._writer):
            if file is not None:
                file.close()
        self._file = self._writer = None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Lines of a metrics file in order, its numbers as floats again; [] if there is none.

    A last line that a kill has broken is left out.

    Raises:
        ValueError: a line that is not the last is not a JSON object with a step.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    result = []
    for number, raw in enumerate(lines, start=1):
        try:
            line = json.loads(raw)
            _ = line["step"] + 0
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a metrics line; delete it to go on") from None
            continue
        if number < len(lines):  # an unbroken line ends with a newline
            result.append({key: _restored(value) for key, value in line.items()})
    return result


class EventFile:
    """One TensorBoard event file, flushed after every line."""

    def __init__(self, path: Path):
        self._file = path.open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=0.0, file_version="brain.Event:2"))

    def add(self, line: dict[str, Any]) -> None:
        """Mirror the numbers of one metrics line."""
        values = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in line.items()
            if key not in NOT_A_MEASUREMENT and isinstance(value, (int, float))
        ]
        event = Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values))
        self._write(event)

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()


def rebuild_events(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace all event files of `folder` by one that holds exactly `lines`.

    It sorts after the old ones, so that a TensorBoard that is running moves on to it.
    """
    path = _next_event_file(folder)
    building = folder / f".{path.name.replace('tfevents', 'partial')}"
    building.unlink(missing_ok=True)
    writer = EventFile(building)
    for line in lines:
        writer.add(line)
    writer.close()
    old = _event_files(folder)
    building.replace(path)
    for file in old:
        file.unlink()


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def _next_event_file(folder: Path) -> Path:
    """A name that TensorBoard finds; numbered, not dated, so that the order of attempts is the order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    newest = _event_files(folder)[-1:]
    number = int(newest[0].name.split(".")[3]) + 1 if newest else 0
    return folder / f"events.out.tfevents.{number:06d}.metrics"


def _plain(value: Any) -> Any:
    """A Python number for numpy's and torch's scalars."""
    return value.item() if hasattr(value, "item") else value


def _encode(line: dict[str, Any]) -> str:
    names = {repr(number): name for name, number in NOT_FINITE.items()}
    safe = {
        key: names[repr(value)] if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    return json.dumps(safe, allow_nan=False)


def _restored(value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
