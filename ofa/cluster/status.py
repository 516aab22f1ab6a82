"""The state of runs, one row each: what their folders say of them, and Slurm's queue where there is one.

A folder may be that of a run that goes on, on this machine or another, that was killed in the middle of a line, or that
an older version wrote: what cannot be told is left out of its row, and no folder spoils the table of the others.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ofa.cluster.attempts import Attempt, End, read_attempts
from ofa.cluster.find import Place
from ofa.cluster.jobs_file import noted_jobs
from ofa.cluster.queue import QueuedJob
from ofa.cluster.tails import Ending, Progress, ending, last_error_line, last_words, progress
from ofa.run_files import is_finished, is_held, saved_step

RECENT = 120.0
"""Seconds without a word after which a run on another machine, whose lock does not reach this one, is taken for dead,
and at least `LINES` times as long as it was between its last lines."""

LINES = 3

SLACK = 5.0
"""Seconds by which clocks of machines may differ, and between a run's end and the note of it."""

ADVICE = "start the same command again"


class State(StrEnum):
    """What a run is doing, as people say it."""

    FINISHED = "finished"
    RUNNING = "running"
    PENDING = "pending"
    REQUEUED = "requeued"
    STOPPED = "stopped and saved"
    FAILED = "failed"
    KILLED = "killed"
    UNFINISHED = "unfinished"
    """It neither runs nor is finished, and nothing tells why."""

    NEVER_STARTED = "never started"
    UNREADABLE = "unreadable"


BROKEN = (State.FAILED, State.KILLED, State.UNREADABLE)

BY_STATUS = {0: State.UNFINISHED, 75: State.STOPPED}
"""Of the last attempt's exit status; every other one is a failure."""


@dataclass(frozen=True)
class Row:
    """One run, or one sweep as a whole."""

    run: str
    """Its folder."""

    state: State
    attempts: int | None = None
    """How often it was started; None: nobody counted."""

    step: int | None = None
    """Updates applied; of a sweep, runs that are finished."""

    total: int | None = None
    """Of the whole run; of a sweep, its runs."""

    saved_step: int | None = None
    """Updates that its newest checkpoint holds."""

    sparsity: float | None = None
    loss: float | str | None = None
    tokens_per_second: float | None = None
    eta: float | None = None
    """Seconds that a run that goes on has left at its own pace."""

    job: str | None = None
    """Slurm's number, while it queues or runs."""

    waits_for: str | None = None
    """Slurm's reason."""

    error: str | None = None
    """The last one."""

    is_sweep: bool = False

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self) | {"state": str(self.state)}


@dataclass(frozen=True)
class Owner:
    """What a run's lock says."""

    held: bool
    """By a process that this machine's kernel knows of, or the file server's."""

    host: str | None
    """Of who took it and has not given it back; None: it was given back."""

    since: float
    """When it was taken, or given back, in seconds since 1970; 0: never."""


def jobs_to_ask_for(place: Place) -> set[str]:
    """Numbers of the jobs that may be doing a run, or waiting to.

    Raises:
        RunFolderError: its jobs.json is damaged.
    """
    attempts = read_attempts(place.path)
    noted = (one.job for one in noted_jobs(place.path))
    return {job for job in [*noted, *(attempt.job for attempt in attempts[-1:])] if job}


def row(place: Place, jobs: Mapping[str, QueuedJob], *, now: float | None = None) -> Row:
    """The row of a run.

    Args:
        place: its folder.
        jobs: that have not ended, by number.
        now: in seconds since 1970; None: the time.
    """
    try:
        return _row(place, jobs, time.time() if now is None else now)
    except (OSError, ValueError) as error:
        return _unreadable(place, error)


def sweep_row(place: Place, cells: Sequence[Row], jobs: Mapping[str, QueuedJob]) -> Row:
    """The row of a sweep, from those of its runs that have begun, and from the job that it is itself, if it is one."""
    try:
        return _sweep_row(place, cells, jobs)
    except (OSError, ValueError) as error:
        return _unreadable(place, error)


def _sweep_row(place: Place, cells: Sequence[Row], jobs: Mapping[str, QueuedJob]) -> Row:
    states = {cell.state for cell in cells}
    finished = sum(cell.state == State.FINISHED for cell in cells)
    total = max(place.planned or 0, len(cells))
    broken = next((cell for cell in cells if cell.state in BROKEN), None)
    job = _job_in_queue(place, jobs)
    if finished == total:
        state = State.FINISHED
    elif is_held(place.path) or (job is not None and jobs[job].has_nodes):
        state = State.RUNNING
    elif job is not None:
        state = State.REQUEUED
    else:
        first_of = (State.RUNNING, State.REQUEUED, State.PENDING, *BROKEN, State.STOPPED)
        state = next((one for one in first_of if one in states), State.UNFINISHED if cells else State.NEVER_STARTED)
    attempts = read_attempts(place.path)
    error = f"{Path(broken.run).name}: {broken.error or broken.state}" if broken else None
    if error is None and attempts and attempts[-1].end is not None:
        error = attempts[-1].end.error
    return Row(
        str(place.path),
        state,
        attempts=len(attempts) or None,
        step=finished,
        total=total,
        job=job,
        waits_for=None if job is None else jobs[job].reason or None,
        error=error,
        is_sweep=True,
    )


def _unreadable(place: Place, error: Exception) -> Row:
    return Row(str(place.path), State.UNREADABLE, error=" ".join(str(error).split()))


def _job_in_queue(place: Place, jobs: Mapping[str, QueuedJob]) -> str | None:
    return next((number for number in jobs_to_ask_for(place) if number in jobs), None)


def _row(place: Place, jobs: Mapping[str, QueuedJob], now: float) -> Row:
    folder, attempts, owner = place.path, read_attempts(place.path), _owner(place.path)
    said = progress(folder, owner.since if owner.host else 0.0)
    how = ending(folder, _beginning(attempts, owner))
    job = _job_in_queue(place, jobs)
    total, saved = (place.record or {}).get("total_steps"), saved_step(folder)
    state = _state_now(place, attempts, owner, said, None if job is None else (job, jobs[job]), now)
    early = None if state else _early_end(place, attempts, owner, now)
    state = state or (State.FAILED if early else _state_at_rest(place, attempts, owner, how))
    error = early or _last_error(place, attempts, how, running=state == State.RUNNING)
    begun = state != State.NEVER_STARTED and (place.has_begun or bool(attempts))
    return Row(
        str(folder),
        state,
        attempts=len(attempts) or None,
        step=total if state == State.FINISHED else max(said.step, saved) if begun else None,
        total=total,
        saved_step=saved if begun else None,
        sparsity=said.sparsity,
        loss=said.loss,
        tokens_per_second=said.tokens_per_second,
        eta=_seconds_left(said, total, now) if state == State.RUNNING else None,
        job=job,
        waits_for=None if job is None else jobs[job].reason or None,
        error=None if state == State.FINISHED else error,
    )


def _state_now(
    place: Place,
    attempts: Sequence[Attempt],
    owner: Owner,
    said: Progress,
    job: tuple[str, QueuedJob] | None,
    now: float,
) -> State | None:
    """The state of a run that is finished, goes on, or queues; None if it is at rest."""
    if is_finished(place.path):
        return State.FINISHED
    if owner.held or (job is not None and job[1].has_nodes):
        return State.RUNNING
    if job is not None:
        return State.REQUEUED if any(attempt.job == job[0] for attempt in attempts) else State.PENDING
    elsewhere = owner.host not in (None, socket.gethostname())
    if elsewhere and now - _last_word(place.path, owner) < max(RECENT, LINES * (said.seconds_between_lines or 0.0)):
        return State.RUNNING
    return None


def _state_at_rest(place: Place, attempts: Sequence[Attempt], owner: Owner, how: Ending) -> State:
    """Why a run does not go on: what it said itself since its last attempt began, and what that attempt's starter
    noted, who outlives it where its own end was no orderly one."""
    last = attempts[-1] if attempts else None
    if owner.host is not None:
        crashed = last is not None and last.end is not None and last.end.status > 0
        return State.FAILED if how.error or crashed else State.KILLED
    if last is not None and last.end is not None and not _was_started_again(last.end, owner):
        return BY_STATUS.get(last.end.status, State.FAILED)
    if how.error or how.saved:
        return State.FAILED if how.error else State.STOPPED
    if last is not None:
        return State.KILLED
    if not place.has_begun:
        return State.FAILED if last_error_line(place.path / "output.txt") else State.NEVER_STARTED
    return State.UNFINISHED


def _early_end(place: Place, attempts: Sequence[Attempt], owner: Owner, now: float) -> str | None:
    """Why the job that was submitted last has ended before its attempt began; None: it has not, as far as can be told.

    Where nobody can be asked whether it runs it may only be starting: then some error must be named, or it be silent.
    """
    noted = noted_jobs(place.path)
    if not noted or noted[-1].log is None or any(attempt.job == noted[-1].job for attempt in attempts):
        return None
    try:
        written = noted[-1].log.stat().st_mtime
    except FileNotFoundError:  # it never left the queue
        return None
    if written + SLACK < owner.since:
        return None
    error, last = last_words(noted[-1].log)
    return error or (last if now - written > RECENT else None)


def _was_started_again(end: End, owner: Owner) -> bool:
    """Whether somebody ran it by hand after the attempt that was noted last."""
    return owner.since > datetime.fromisoformat(end.time).timestamp() + SLACK


def _beginning(attempts: Sequence[Attempt], owner: Owner) -> float:
    """When the last attempt began, as far as it can be told, in seconds since 1970."""
    if owner.host is not None:
        return owner.since
    if attempts and attempts[-1].end is None:
        return datetime.fromisoformat(attempts[-1].time).timestamp()
    return 0.0


def _seconds_left(said: Progress, total: int | None, now: float) -> float | None:
    if total is None or said.time is None or said.steps_per_second is None:
        return None
    return max(0.0, (total - said.step) / said.steps_per_second - (now - said.time))


def _last_error(place: Place, attempts: Sequence[Attempt], how: Ending, *, running: bool) -> str | None:
    """In words on one line: of the last attempt that had one; damage of the record before all."""
    if place.damage is not None:
        return place.damage
    if how.error is not None and not running:
        return how.error
    noted = [attempt.end.error for attempt in attempts if attempt.end is not None and attempt.end.error]
    if noted:
        return noted[-1].removeprefix("error: ")
    if running or how.saved:
        return None
    if (place.path / "result.json").is_file():
        return f"result.json is there, but its model is not whole: {ADVICE} to export it"
    return last_error_line(place.path / "output.txt")


def _owner(folder: Path) -> Owner:
    path = folder / "lock"
    try:
        host = path.read_text().removeprefix("host ").partition(",")[0].strip() or None
        return Owner(is_held(folder), host, path.stat().st_mtime)
    except FileNotFoundError:
        return Owner(False, None, 0.0)


def _last_word(folder: Path, owner: Owner) -> float:
    """When the run last wrote something, in seconds since 1970."""
    times = [owner.since]
    for name in ("metrics.jsonl", "log.txt"):
        if (folder / name).exists():
            times.append(os.stat(folder / name).st_mtime)
    return max(times)
