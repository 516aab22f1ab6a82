"""The log of a job as it grows, over restarts, until the job has ended."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ofa.cluster.slurm import SlurmError, ask

BETWEEN_LOOKS = 1.0
"""Seconds between two looks at the log."""

BETWEEN_QUESTIONS = 5.0
"""Seconds between two questions to Slurm."""

LIVE = frozenset({"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED", "SIGNALING"})


def follow(job: str, log: Path, state: Callable[[str], tuple[str, str]] | None = None) -> bool:
    """Print what is and will be in a job's log until the job ends; whether it ended well.

    Args:
        job: its number.
        log: of rank 0; may not be there yet.
        state: asked for state and reason of the job.
    """
    state = state or job_state
    place, told, ask_at = 0, None, 0.0
    while True:
        found = told
        if time.monotonic() >= ask_at:
            found, ask_at = state(job), time.monotonic() + BETWEEN_QUESTIONS
        place = _print_more(log, place)  # after the question: all that an ended job has written is there
        if found != told and found is not None:
            told = found
            why = f" ({told[1]})" if told[1] else ""
            print(f"job {job}: {told[0]}{why}", file=sys.stderr, flush=True)
        if told is not None and told[0] not in LIVE:
            return told[0] == "COMPLETED"
        time.sleep(BETWEEN_LOOKS)


def job_state(job: str) -> tuple[str, str]:
    """State and reason of a job in Slurm's words; FORGOTTEN where it ended long ago."""
    try:
        shown = ask("scontrol", "show", "job", "-o", job)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return "FORGOTTEN", ""
        return "RUNNING", "Slurm does not answer"
    state, reason = (re.search(rf"\b{key}=(\S+)", shown) for key in ("JobState", "Reason"))
    why = reason[1] if reason and reason[1] != "None" else ""
    return (state[1] if state else "RUNNING"), why


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
