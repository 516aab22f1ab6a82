"""The rows of jobs that have no run folder, such as data preparation or a report: from the folder beside their logs in
which their attempts are noted.

A command that was submitted several times is one row, as a run is: that of the job that was submitted last.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ofa.cluster.attempts import Attempt, read_attempts
from ofa.cluster.find import Place
from ofa.cluster.jobs_file import JOBS_FILE, NotedJob, noted_jobs
from ofa.cluster.queue import QueuedJob
from ofa.cluster.row import Row, State, unreadable
from ofa.cluster.state import NOBODY, RECENT, early_end, last_noted_error, state_after
from ofa.cluster.status import job_in_queue


def job_row(place: Place, jobs: Mapping[str, QueuedJob] | None, *, now: float | None = None) -> Row:
    """The row of a job.

    Args:
        place: the folder in which its attempts are noted.
        jobs: of the queue, by number, whoever's they are; None: nobody could be asked.
        now: in seconds since 1970; None: the time.
    """
    try:
        return _row(place, jobs, time.time() if now is None else now)
    except (OSError, ValueError) as error:
        return unreadable(place.path, error)


def submitted_last(places: Iterable[Place]) -> set[Path]:
    """Of folders of jobs, of each command that of the last job."""
    last: dict[object, tuple[float, Path]] = {}
    for place in places:
        try:
            command = next((one.command for one in noted_jobs(place.path)), None)
            when = (place.path / JOBS_FILE).stat().st_mtime if command else 0.0
        except (OSError, ValueError):  # its own row will tell
            command, when = None, 0.0
        key = command or place.path
        last[key] = max(last.get(key, (0.0, place.path)), (when, place.path))
    return {path for _, path in last.values()}


def _row(place: Place, jobs: Mapping[str, QueuedJob] | None, now: float) -> Row:
    attempts = read_attempts(place.path)
    noted = next(reversed(noted_jobs(place.path)), None)
    job = None if jobs is None else job_in_queue(place, jobs)
    waits_for, error = None, None
    if jobs is not None and job is not None:
        waits_for = jobs[job].reason or None
        state = State.RUNNING if jobs[job].has_nodes else State.REQUEUED if attempts else State.PENDING
    elif attempts:
        state = _after(attempts[-1], noted, now, asked=jobs is not None)
    else:
        error = early_end(place, attempts, NOBODY, now)
        state = State.FAILED if error else State.NEVER_STARTED
    if state != State.FINISHED:
        error = last_noted_error(attempts) or error
    return Row(
        str(place.path),
        state,
        attempts=len(attempts) or None,
        job=job,
        waits_for=waits_for,
        error=error,
        command=_for_people(noted.command if noted else None),
    )


def _after(last: Attempt, noted: NotedJob | None, now: float, *, asked: bool) -> State:
    """The state of a job that is in no queue, by its last attempt."""
    if last.end is not None:
        return state_after(last.end, done=State.FINISHED)
    if noted is not None and noted.is_local and last.nodes == (socket.gethostname(),):
        return State.RUNNING if noted.process is not None and noted.process.lives else State.KILLED
    log = noted.log if noted is not None else None
    knows = asked and not (noted is not None and noted.is_local)
    if not knows and log is not None and log.exists() and now - log.stat().st_mtime < RECENT:
        return State.RUNNING
    return State.KILLED


def _for_people(command: str | None) -> str:
    """`report runs/a`, without what all have."""
    words = shlex.split(command or "")
    if not words:
        return "unknown command"
    own = words[1:] if words[0] == "-m" else [Path(words[0]).stem, *words[1:]]
    return shlex.join(own)
