"""The jobs that were submitted to do a run: `jobs.json` in its run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.cluster.attempts import attempts_of, now
from ofa.cluster.exclusive import exclusive
from ofa.cluster.local_processes import LocalProcess, local_process, process_here
from ofa.run_files import RunFolderError, read_json, write_json

JOBS_FILE = "jobs.json"
LOCK = ".jobs.lock"
SUBMITTING = ".submitting.lock"

SLURM, LOCAL = "slurm", "local"
"""Whose numbers they are."""


@dataclass(frozen=True)
class NotedJob:
    """One of them."""

    job: str
    """Its number."""

    log: Path | None
    """Of rank 0; None: an older version did not say."""

    name: str | None = None
    """Slurm's; None as for the log."""

    user: int | None = None
    """Number of who submitted it; None as for the log."""

    command: str | None = None
    """That it does, for a shell; None as for the log."""

    is_local: bool = False
    """A process of some machine: its number is not Slurm's."""

    time: str = ""
    """When it was submitted, as those of `Attempt`; empty as for the log."""

    process: LocalProcess | None = None
    """That which lives as long as a local job does; None as for the log."""


def noted_jobs(folder: Path) -> list[NotedJob]:
    """The jobs that were submitted for a run, the last one last; none where nobody has noted any.

    Raises:
        RunFolderError: the file is damaged.
    """
    if not (folder / JOBS_FILE).is_file():
        return []
    jobs = read_json(folder / JOBS_FILE).get("jobs")
    return [_noted(one) for one in (jobs if isinstance(jobs, list) else [])]


def live_local_job(folder: Path) -> NotedJob | None:
    """The job of this machine that was submitted for a run and has not ended; None: there is none.

    Raises:
        RunFolderError: as `noted_jobs`.
    """
    for one in noted_jobs(folder):
        if one.process is not None and one.process.lives and not _has_ended(folder, one):
            return one
    return None


@contextlib.contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Nobody else who asks for this submits a job for the run meanwhile; its folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / SUBMITTING):
        yield


def note_job(
    folder: Path,
    job: str,
    *,
    command: str,
    log: Path,
    name: str | None = None,
    process: int | None = None,
    since: str | None = None,
) -> None:
    """Write down that this user has submitted a job for a run, whose folder is made if it is not there.

    Args:
        folder: of the run.
        job, command, log, name: as those of `NotedJob`.
        process: number of the one of this machine that lives as long as the job does; None: it is Slurm's.
        since: `time` of `NotedJob`; None: now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cluster = SLURM if process is None else LOCAL
    new: dict[str, Any] = {"job": job, "name": name, "user": os.getuid(), "cluster": cluster, "time": since or now()}
    if process is not None:
        new["process"] = process_here(process).as_json()
    with exclusive(folder / LOCK):
        jobs = []
        with contextlib.suppress(RunFolderError):  # what is damaged is written anew
            jobs = read_json(folder / JOBS_FILE).get("jobs", [])
        write_json(folder / JOBS_FILE, {"jobs": [*jobs, {**new, "command": command, "log": str(log)}]})


def _noted(value: object) -> NotedJob:
    if not isinstance(value, dict):
        return NotedJob(str(value), None)
    log, name, user, command = (value.get(key) for key in ("log", "name", "user", "command"))
    return NotedJob(
        str(value.get("job", "")),
        Path(log) if isinstance(log, str) else None,
        name if isinstance(name, str) else None,
        user if isinstance(user, int) else None,
        command if isinstance(command, str) else None,
        value.get("cluster") == LOCAL,
        str(value.get("time", "")),
        local_process(value.get("process")),
    )


def _has_ended(folder: Path, noted: NotedJob) -> bool:
    """Whether its attempt has, which a little more of the job's process may outlive."""
    attempts = attempts_of(folder, noted.job, noted.time)
    return bool(attempts) and attempts[-1].end is not None
