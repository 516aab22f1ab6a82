"""The attempts of a run that is started again and again: `attempts.jsonl` in its run folder, which whoever starts the
run's processes writes, a line when an attempt begins and one when it ends.

An attempt without an end was killed with everything around it, a lost node above all; the next one's line tells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ofa.cluster.exclusive import exclusive
from ofa.run_files import is_in_use, json_lines

ATTEMPTS_FILE = "attempts.jsonl"

BESIDE_LOG = "_attempts"
"""End of the name of the folder in which those of a job without a run folder are noted."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    time: str
    """As that of `Attempt`."""

    status: int
    """Exit status; negative: the number of the signal that ended it."""

    step: int
    """Updates that its last checkpoint holds."""

    reason: str
    """In words, such as `stopped and saved`."""

    error: str | None
    """Its last error line."""


@dataclass(frozen=True)
class Attempt:
    """One time that the run was started."""

    number: int
    """From 1."""

    time: str
    """When, in UTC, as ISO 8601 writes it."""

    job: str | None
    """Slurm's number, of a task of an array with the task's (`17_3`); None: it was no job."""

    restart: int
    """How often Slurm has queued this job again."""

    nodes: tuple[str, ...]
    ranks: int

    step: int
    """Updates that the checkpoint holds from which it goes on; 0: it begins."""

    commit: str | None
    """Of the code that it runs."""

    end: End | None = None
    """None: it goes on, or was killed."""

    @property
    def was_refused(self) -> bool:
        """Whether it found another one at the run, of which its end says nothing."""
        return self.end is not None and is_in_use(self.end.error or "")


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts of a run so far; none where nobody has written any.

    Lines that a kill has broken, and values that are missing, are passed over.
    """
    try:
        return _parse((folder / ATTEMPTS_FILE).read_bytes())
    except FileNotFoundError:
        return []


def attempts_of(folder: Path, job: str, since: str = "") -> list[Attempt]:
    """Those of one job; none of an older one that had the same number: each start of a job has a higher count.

    Args:
        folder: in which they are noted.
        job: its number.
        since: as `now` gives it: when a job of this machine was submitted, which has no second start; the number of its
            process comes again.
    """
    found: list[Attempt] = []
    for attempt in read_attempts(folder):
        if attempt.job == job and attempt.time >= since:
            found = [*(one for one in found if found[-1].restart < attempt.restart), attempt]
    return found


def attempts_folder(run_dir: Path | None, jobs: Path, job: str) -> Path:
    """Where a job's attempts are noted: in its run folder, else beside its log.

    Args:
        run_dir: None: it has none.
        jobs: the logs' folder.
        job: its number.
    """
    return run_dir or jobs / f"{job}{BESIDE_LOG}"


def write_start(
    folder: Path,
    *,
    job: str | None,
    restart: int,
    nodes: Sequence[str],
    ranks: int,
    step: int,
    commit: str | None,
) -> int:
    """Note that an attempt begins; its number, which no other one of this folder has.

    Args:
        folder: of the run; made if it is not there.
        job, restart, nodes, ranks, step, commit: as those of `Attempt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {"job": job, "restart": restart, "nodes": list(nodes), "ranks": ranks, "step": step, "commit": commit}
    with exclusive(folder / ATTEMPTS_FILE) as file:
        file.seek(0)
        number = max((attempt.number for attempt in _parse(file.read())), default=0) + 1
        _append(file, {"attempt": number, "event": "start", "time": now(), **values})
    return number


def write_end(folder: Path, number: int, *, status: int, step: int, reason: str, error: str | None = None) -> None:
    """Note how the attempt with this number has ended.

    Args:
        folder: of the run.
        number: what `write_start` gave.
        status, step, reason, error: as those of `End`.
    """
    values = {"status": status, "step": step, "reason": reason, "error": error}
    with exclusive(folder / ATTEMPTS_FILE) as file:
        _append(file, {"attempt": number, "event": "end", "time": now(), **values})


def _parse(text: bytes) -> list[Attempt]:
    found: dict[int, Attempt] = {}
    for line in json_lines(text.decode(errors="replace")):
        number = line.get("attempt")
        if not isinstance(number, int):
            continue
        if line.get("event") == "start":
            found[number] = _attempt(number, line)
        elif line.get("event") == "end" and number in found:
            found[number] = replace(found[number], end=_end(line))
    return list(found.values())


def _attempt(number: int, line: dict[str, Any]) -> Attempt:
    return Attempt(
        number=number,
        time=str(line.get("time", "")),
        job=line.get("job"),
        restart=line.get("restart") or 0,
        nodes=tuple(line.get("nodes") or ()),
        ranks=line.get("ranks") or 0,
        step=line.get("step") or 0,
        commit=line.get("commit"),
    )


def _end(line: dict[str, Any]) -> End:
    return End(
        time=str(line.get("time", "")),
        status=line.get("status", 1),
        step=line.get("step") or 0,
        reason=str(line.get("reason", "")),
        error=line.get("error"),
    )


def _append(file: BinaryIO, values: dict[str, Any]) -> None:
    """One line, on the disk when this returns; what a kill has left of the line before gets an end of its own."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    broken = size > 0 and file.read(1) != b"\n"
    file.write(b"\n" * broken + json.dumps(values).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def now() -> str:
    """The time as attempts have it: later ones are the greater text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
