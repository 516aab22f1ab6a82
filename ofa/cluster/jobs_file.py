"""The jobs that were submitted to do a run: `jobs.json` in its run folder."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ofa.cluster.exclusive import exclusive
from ofa.run_files import RunFolderError, read_json, write_json

JOBS_FILE = "jobs.json"
LOCK = ".jobs.lock"

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


def noted_jobs(folder: Path) -> list[NotedJob]:
    """The jobs that were submitted for a run, the last one last; none where nobody has noted any.

    Raises:
        RunFolderError: the file is damaged.
    """
    if not (folder / JOBS_FILE).is_file():
        return []
    jobs = read_json(folder / JOBS_FILE).get("jobs")
    return [_noted(one) for one in (jobs if isinstance(jobs, list) else [])]


def note_job(
    folder: Path, job: str, *, command: str, log: Path, name: str | None = None, is_local: bool = False
) -> None:
    """Write down that this user has submitted a job for a run, whose folder is made if it is not there.

    Args:
        folder: of the run.
        job, command, log, name, is_local: as those of `NotedJob`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    new = {"job": job, "name": name, "user": os.getuid(), "cluster": LOCAL if is_local else SLURM, "time": when}
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
    )
