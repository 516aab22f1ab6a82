"""The jobs that were submitted to do a run: `jobs.json` in its run folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ofa.run_files import RunFolderError, read_json, write_json

JOBS_FILE = "jobs.json"


@dataclass(frozen=True)
class NotedJob:
    """One of them."""

    job: str
    """Its number."""

    log: Path | None
    """Of rank 0; None: an older version did not say."""


def noted_jobs(folder: Path) -> list[NotedJob]:
    """The jobs that were submitted for a run, the last one last; none where nobody has noted any.

    Raises:
        RunFolderError: the file is damaged.
    """
    if not (folder / JOBS_FILE).is_file():
        return []
    jobs = read_json(folder / JOBS_FILE).get("jobs")
    return [_noted(one) for one in (jobs if isinstance(jobs, list) else [])]


def note_job(folder: Path, job: str, *, command: str, log: Path) -> None:
    """Write down that a job was submitted for a run, whose folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOBS_FILE
    jobs = []
    with contextlib.suppress(RunFolderError):  # what is damaged is written anew
        jobs = read_json(path).get("jobs", [])
    when = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"jobs": [*jobs, {"job": job, "time": when, "command": command, "log": str(log)}]})


def _noted(value: object) -> NotedJob:
    if not isinstance(value, dict):
        return NotedJob(str(value), None)
    return NotedJob(str(value.get("job", "")), Path(value["log"]) if isinstance(value.get("log"), str) else None)
