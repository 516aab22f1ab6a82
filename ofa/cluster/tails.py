"""What the ends of a run's own files tell, of a run that may be writing them: how far it is, how fast, how it ended.

Only the ends are read, so that a table of a hundred long runs is as quick as one of short ones.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.run_files import json_lines, read_tail

METRICS_TAIL = 64 << 10
"""Bytes of metrics.jsonl that are read: some hundred lines."""

LOG_TAIL = 32 << 10
"""Bytes of log.txt that are read; a traceback has some thousands."""

RECORD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ [A-Z]+ ([\w.]+): ", re.MULTILINE)
"""How a message of log.txt begins (`ofa.progress`): local time, level, logger."""

TRACEBACK = "Traceback (most recent call last):"

EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w+)(: |$)")
"""How the last words of a traceback begin."""

ERROR = re.compile(r"(^|[\s:])error: |^([\w.]+\.)?\w*(Error|Exception)(:|$)")
"""A line that names one, in words of ours, of Slurm or of a traceback."""

OF_SLURM = ("srun:", "slurmstepd:")

GONE = ("expected_sparsity", "cost_sparsity", "sparsity")
"""Keys of a metrics line, the first of which that it has is shown: CoFi's are of its structure."""


@dataclass(frozen=True)
class Progress:
    """What metrics.jsonl tells."""

    step: int = 0
    """Updates applied as of its last line."""

    time: float | None = None
    """Of that line, in seconds since 1970; None: there is no line."""

    sparsity: float | None = None
    loss: float | str | None = None
    """Of the last update that has a line; a string where it is no number."""

    tokens_per_second: float | None = None
    steps_per_second: float | None = None
    """With validations and saves, over the lines since this attempt began; None: there are too few."""

    seconds_between_lines: float | None = None
    """The last two; None: there is one at most."""


@dataclass(frozen=True)
class Ending:
    """How the attempt that wrote last to log.txt came to its end, as far as it could say so."""

    saved: bool = False
    error: str | None = None
    """Its words on one line."""


def progress(folder: Path, since: float) -> Progress:
    """How far a run is, and how fast since `since`, in seconds since 1970."""
    lines = [line for line in json_lines(read_tail(folder / "metrics.jsonl", METRICS_TAIL)) if _is_whole(line)]
    if not lines:
        return Progress()
    updates = [line for line in lines if "lr" in line]
    last = updates[-1] if updates else {}
    of_attempt = [line for line in updates if line["time"] >= since]
    return Progress(
        step=max(_applied(line) for line in lines[-2:]),
        time=lines[-1]["time"],
        sparsity=_first(lines[-1], GONE),
        loss=last.get("loss"),
        tokens_per_second=last.get("tokens_per_second"),
        steps_per_second=_rate(of_attempt),
        seconds_between_lines=lines[-1]["time"] - lines[-2]["time"] if len(lines) > 1 else None,
    )


def ending(folder: Path, since: float = 0.0) -> Ending:
    """How a run's last attempt ended, from what log.txt says since `since`, in seconds since 1970."""
    said = Ending()
    for logger, message in _records(read_tail(folder / "log.txt", LOG_TAIL), since):
        if logger == "ofa.train" and message.startswith("stopped and saved"):
            said = Ending(saved=True)
        elif logger == "ofa.train" and message.startswith("the run ended with an error"):
            said = Ending(error=_last_words(message))
        elif logger == "ofa.watch" and message.startswith("error: "):
            said = Ending(error=_one_line(message.removeprefix("error: ")))
        elif logger == "ofa.progress":
            said = Ending()  # a later attempt came as far as to train
    return said


def last_error_line(path: Path) -> str | None:
    """The last line of a process's output that begins with `error:`, without that; None: there is none."""
    said = [line for line in read_tail(path, LOG_TAIL).splitlines() if line.startswith("error: ")]
    return _one_line(said[-1].removeprefix("error: ")) if said else None


def last_words(log: Path) -> tuple[str | None, str | None]:
    """Of what a job has written before its run began: the last line that names an error, and the last one; None: there
    is none. What Slurm says of the job's end counts where nothing else names one."""
    lines = [line.strip() for line in read_tail(log, LOG_TAIL).splitlines() if line.strip()]
    found = [line for line in lines if ERROR.search(line)]
    own = [line for line in found if not line.startswith(OF_SLURM)] or [
        line for line in found if not line.startswith("srun:")
    ]
    return next(reversed(own or found), None), next(reversed(lines), None)


def _is_whole(line: dict[str, Any]) -> bool:
    return isinstance(line.get("step"), int) and isinstance(line.get("time"), int | float)


def _applied(line: dict[str, Any]) -> int:
    """A line of an update t -> t + 1 has t; one of a validation has the number of updates before it."""
    return line["step"] + ("lr" in line)


def _rate(updates: list[dict[str, Any]]) -> float | None:
    if len(updates) < 2:
        return None
    first, last = updates[0], updates[-1]
    steps, seconds = last["step"] - first["step"], last["time"] - first["time"]
    return steps / seconds if steps > 0 and seconds > 0 else None


def _first(line: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((line[key] for key in keys if isinstance(line.get(key), int | float)), None)


def _records(text: str, since: float) -> list[tuple[str, str]]:
    """(logger, message) of each whole record; a traceback belongs to the message before it."""
    starts = list(RECORD.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)] * bool(starts)
    return [
        (start.group(2), text[start.end() : end])
        for start, end in zip(starts, ends, strict=True)
        if time.mktime(time.strptime(start.group(1), "%Y-%m-%d %H:%M:%S")) >= since - 1  # whole seconds are written
    ]


def _last_words(traceback: str) -> str:
    """The exception that a traceback ends with, without the module of its class."""
    lines = traceback.rpartition(TRACEBACK)[2].strip("\n").splitlines()
    found = [number for number, line in enumerate(lines) if EXCEPTION.match(line)]
    if not found:
        return "unknown"
    return _one_line(EXCEPTION.sub(r"\1\2", "\n".join(lines[found[0] :]), count=1))


def _one_line(text: str) -> str:
    return " ".join(text.split())
