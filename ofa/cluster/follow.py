"""The log of a job as it grows, over restarts, until the job has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from ofa.cluster.queue import RUNS
from ofa.slurm.commands import SlurmError, job_values

BETWEEN_LOOKS = 1.0
"""Seconds between two looks at the log."""

BETWEEN_QUESTIONS = 5.0
"""Seconds between two questions to Slurm."""

UNKNOWN = "UNKNOWN"
"""Of a job about which Slurm does not answer."""

FORGOTTEN = "FORGOTTEN"
"""Of one that ended some minutes ago, of which Slurm knows nothing any more."""

WAITS = frozenset({"PENDING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""States of Slurm in which a job has no nodes and may yet be given some."""

LIVE = RUNS | WAITS | {UNKNOWN}


def follow(
    job: str, log: Path, state: Callable[[str], tuple[str, str]] | None = None, *, every: float = BETWEEN_QUESTIONS
) -> str:
    """Print what is and will be in a job's log until the job ends; the state in which it then is.

    Args:
        job: its number.
        log: of rank 0; may not be there yet.
        state: asked for state and reason of the job; None: Slurm is.
        every: seconds between two questions.
    """
    state = state or job_state
    place, told, ask_at = 0, None, 0.0
    while True:
        found = told
        if time.monotonic() >= ask_at:
            found, ask_at = state(job), time.monotonic() + every
        place = _print_more(log, place)  # after the question: all that an ended job has written is there
        if found != told and found is not None:
            told = found
            why = f" ({told[1]})" if told[1] else ""
            print(f"job {job}: {told[0]}{why}", file=sys.stderr, flush=True)
        if told is not None and told[0] not in LIVE:
            return told[0]
        time.sleep(BETWEEN_LOOKS)


def job_state(job: str) -> tuple[str, str]:
    """State and reason of a job in Slurm's words."""
    try:
        values = job_values(job)
    except SlurmError as error:
        return UNKNOWN, str(error)
    reason = values.get("Reason", "None")
    return values.get("JobState", FORGOTTEN), "" if reason == "None" else reason


def _print_more(log: Path, place: int) -> int:
    try:
        with log.open("rb") as file:
            file.seek(place)
            more = file.read()
    except FileNotFoundError:
        return place
    if more:
        sys.stdout.write(more.decode(errors="replace"))
        sys.stdout.flush()
    return place + len(more)
