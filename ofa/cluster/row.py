"""A row of the table of runs, and the words for what a run is doing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """What a run is doing, as people say it."""

    FINISHED = "finished"
    RUNNING = "running"
    PENDING = "pending"
    REQUEUED = "requeued"
    STOPPED = "stopped and saved"
    GIVEN_UP = "given up"
    """It has saved and could go on, but its job was not queued again; the error says why."""

    FAILED = "failed"
    KILLED = "killed"
    UNFINISHED = "unfinished"
    """It neither runs nor is finished, and nothing tells why."""

    NEVER_STARTED = "never started"
    UNREADABLE = "unreadable"


BROKEN = (State.FAILED, State.GIVEN_UP, State.KILLED, State.UNREADABLE)
"""States that somebody should look at."""


@dataclass(frozen=True)
class Row:
    """One run, one sweep as a whole, or one job that has no run folder."""

    run: str
    """Its folder; of a job without one, that in which its attempts are noted."""

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

    process: int | None = None
    """Of a job of this machine, while it runs: the number to stop it by."""

    waits_for: str | None = None
    """Slurm's reason."""

    error: str | None = None
    """The last one."""

    is_sweep: bool = False

    command: str | None = None
    """Of a job that has no run folder; None: it is none."""

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self) | {"state": str(self.state)}


def unreadable(folder: Path, error: Exception) -> Row:
    """The row of a folder whose files cannot be read."""
    return Row(str(folder), State.UNREADABLE, error=" ".join(str(error).split()))
