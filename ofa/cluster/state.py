"""Why a run is in which state: its lock, its record of attempts, its own last words, and Slurm's queue."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ofa.cluster.attempts import Attempt, End
from ofa.cluster.find import Place
from ofa.cluster.jobs_file import NotedJob, noted_jobs
from ofa.cluster.queue import QueuedJob
from ofa.cluster.row import State
from ofa.cluster.tails import Ending, Progress, last_error_line, last_words
from ofa.cluster.verdict import DONE, STOPPED_AND_SAVED, UNHEARD, UNSAVED
from ofa.run_files import is_finished, is_held

RECENT = 120.0
"""Seconds without a word after which a run on another machine, whose lock does not reach this one, is taken for dead,
and at least `LINES` times as long as it was between its last lines."""

LINES = 3

SLACK = 5.0
"""Seconds by which clocks of machines may differ, and between a run's end and the note of it."""

@dataclass(frozen=True)
class Owner:
    """What a run's lock says."""

    held: bool
    """By a process that this machine's kernel knows of, or the file server's."""

    host: str | None
    """Of who took it and has not given it back; None: it was given back."""

    since: float
    """When it was taken, or given back, in seconds since 1970; 0: never."""


NOBODY = Owner(False, None, 0.0)
"""Where there is no lock."""


def owner_of(folder: Path) -> Owner:
    """Whose a run is, by its lock."""
    path = folder / "lock"
    try:
        host = path.read_text().removeprefix("host ").partition(",")[0].strip() or None
        return Owner(is_held(folder), host, path.stat().st_mtime)
    except FileNotFoundError:
        return NOBODY


def state_now(
    place: Place,
    attempts: Sequence[Attempt],
    owner: Owner,
    said: Progress,
    job: tuple[str, QueuedJob] | None,
    local: NotedJob | None,
    now: float,
) -> State | None:
    """The state of a run that is finished, goes on, or queues; None if it is at rest.

    Args:
        place: its folder.
        attempts: of all its jobs.
        owner: by its lock.
        said: in its metrics.
        job: of Slurm, that does it or waits to, by number.
        local: the job of this machine that does it.
        now: in seconds since 1970.
    """
    if is_finished(place.path):
        return State.FINISHED
    if owner.held or local is not None or (job is not None and job[1].has_nodes):
        return State.RUNNING
    if job is not None:
        return State.REQUEUED if any(attempt.job == job[0] for attempt in attempts) else State.PENDING
    elsewhere = owner.host not in (None, socket.gethostname())
    if elsewhere and now - _last_word(place.path, owner) < max(RECENT, LINES * (said.seconds_between_lines or 0.0)):
        return State.RUNNING
    return None


def state_at_rest(place: Place, attempts: Sequence[Attempt], owner: Owner, how: Ending) -> State:
    """Why a run does not go on: what it said itself since its last attempt began, and what that attempt's starter
    noted, who outlives it where its own end was no orderly one."""
    last = attempts[-1] if attempts else None
    if owner.host is not None:
        end = last.end if last is not None else None
        if end is not None and _was_unheard(end) and not _was_started_again(end, owner):
            return State.UNFINISHED
        return State.FAILED if how.error or (end is not None and end.status > 0) else State.KILLED
    if last is not None and last.end is not None and not _was_started_again(last.end, owner):
        return state_after(last.end, done=State.UNFINISHED)
    if how.error or how.saved:
        return State.FAILED if how.error else State.STOPPED
    if last is not None:
        return State.KILLED
    if not place.has_begun:
        return State.FAILED if last_error_line(place.path / "output.txt") else State.NEVER_STARTED
    return State.UNFINISHED


def state_after(end: End, *, done: State) -> State:
    """The state of what is not queued or started again, by how its last attempt ended.

    Args:
        end: of that.
        done: where it did its work.
    """
    if end.status == DONE:
        return done
    if end.status == STOPPED_AND_SAVED:  # an error says why its job did not go back into the queue, as it asked to
        return State.GIVEN_UP if end.error else State.STOPPED
    return State.UNFINISHED if _was_unheard(end) else State.FAILED


def last_noted_error(attempts: Sequence[Attempt]) -> str | None:
    """Of the last attempt whose end is on record; None: it had none, and what was before is mended."""
    end = next((attempt.end for attempt in reversed(attempts) if attempt.end is not None), None)
    if end is None or not end.error:
        return None
    error = end.error.removeprefix("error: ")
    return f"{UNSAVED}: {error}" if end.reason == UNSAVED else error


def early_end(place: Place, attempts: Sequence[Attempt], owner: Owner, now: float) -> str | None:
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


def beginning(attempts: Sequence[Attempt], owner: Owner) -> float:
    """When the last attempt began, as far as it can be told, in seconds since 1970."""
    if owner.host is not None:
        return owner.since
    if attempts and attempts[-1].end is None:
        return datetime.fromisoformat(attempts[-1].time).timestamp()
    return 0.0


def _was_unheard(end: End) -> bool:
    """Whether it was told to end before it could save."""
    return end.reason == UNSAVED and end.status in UNHEARD


def _was_started_again(end: End, owner: Owner) -> bool:
    """Whether somebody ran it by hand after the attempt that was noted last."""
    return owner.since > datetime.fromisoformat(end.time).timestamp() + SLACK


def _last_word(folder: Path, owner: Owner) -> float:
    """When the run last wrote something, in seconds since 1970."""
    times = [owner.since]
    for name in ("metrics.jsonl", "log.txt"):
        if (folder / name).exists():
            times.append(os.stat(folder / name).st_mtime)
    return max(times)
