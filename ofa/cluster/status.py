"""The rows of runs and sweeps: what their folders say of them, and Slurm's queue where there is one.

A folder may be that of a run that goes on, on this machine or another, that was killed in the middle of a line, or that
an older version wrote: what cannot be told is left out of its row, and no folder spoils the table of the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ofa.cluster.attempts import Attempt, read_attempts
from ofa.cluster.find import Place
from ofa.cluster.jobs_file import NotedJob, live_local_job, noted_jobs
from ofa.cluster.queue import QueuedJob, among
from ofa.cluster.row import BROKEN, Row, State, unreadable
from ofa.cluster.state import beginning, early_end, last_noted_error, owner_of, state_at_rest, state_now
from ofa.cluster.tails import Ending, Progress, ending, last_error_line, progress
from ofa.run_files import is_held, saved_step

ADVICE = "start the same command again"


def jobs_to_ask_for(place: Place) -> list[NotedJob]:
    """The jobs that may be doing a run, or waiting to.

    Raises:
        RunFolderError: its jobs.json is damaged.
    """
    noted = noted_jobs(place.path)
    attempts = read_attempts(place.path)
    if attempts and attempts[-1].job and attempts[-1].job not in {one.job for one in noted}:
        noted.append(NotedJob(attempts[-1].job, None))
    return noted


def row(place: Place, jobs: Mapping[str, QueuedJob], *, now: float | None = None) -> Row:
    """The row of a run.

    Args:
        place: its folder.
        jobs: of the queue, by number, whoever's they are.
        now: in seconds since 1970; None: the time.
    """
    try:
        return _row(place, jobs, time.time() if now is None else now)
    except (OSError, ValueError) as error:
        return unreadable(place.path, error)


def sweep_row(place: Place, cells: Sequence[Row], jobs: Mapping[str, QueuedJob]) -> Row:
    """The row of a sweep, from those of its runs that have begun, and from the job that it is itself, if it is one."""
    try:
        return _sweep_row(place, cells, jobs)
    except (OSError, ValueError) as error:
        return unreadable(place.path, error)


def _sweep_row(place: Place, cells: Sequence[Row], jobs: Mapping[str, QueuedJob]) -> Row:
    states = {cell.state for cell in cells}
    finished = sum(cell.state == State.FINISHED for cell in cells)
    total = max(place.planned or 0, len(cells))
    broken = next((cell for cell in cells if cell.state in BROKEN), None)
    job = job_in_queue(place, jobs)
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
        process=_process(live_local_job(place.path)),
        waits_for=None if job is None else jobs[job].reason or None,
        error=error,
        is_sweep=True,
    )


def job_in_queue(place: Place, jobs: Mapping[str, QueuedJob]) -> str | None:
    """The number of a job that does what belongs to a folder, or waits to, among all jobs of the queue."""
    return next(iter(among(jobs_to_ask_for(place), jobs)), None)


def _row(place: Place, jobs: Mapping[str, QueuedJob], now: float) -> Row:
    folder, owner = place.path, owner_of(place.path)
    tries = read_attempts(folder)
    attempts = [one for one in tries if not one.was_refused]
    said = progress(folder, owner.since if owner.host else 0.0)
    how = ending(folder, beginning(attempts, owner))
    job, local = job_in_queue(place, jobs), live_local_job(folder)
    total, saved = (place.record or {}).get("total_steps"), saved_step(folder)
    state = state_now(place, attempts, owner, said, None if job is None else (job, jobs[job]), local, now)
    early = None if state else early_end(place, tries, owner, now)
    state = state or (State.FAILED if early else state_at_rest(place, attempts, owner, how))
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
        process=_process(local),
        waits_for=None if job is None else jobs[job].reason or None,
        error=None if state == State.FINISHED else error,
    )


def _process(local: NotedJob | None) -> int | None:
    return local.process.pid if local is not None and local.process is not None else None


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
    noted = last_noted_error(attempts)
    if noted is not None:
        return noted
    if running or how.saved:
        return None
    if (place.path / "result.json").is_file():
        return f"result.json is there, but its model is not whole: {ADVICE} to export it"
    return last_error_line(place.path / "output.txt")
