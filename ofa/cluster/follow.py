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


class Follower:
    """The log of one job, and what Slurm says of it, printed as they grow."""

    def __init__(
        self,
        job: str,
        log: Path,
        state: Callable[[str], tuple[str, str]] | None = None,
        *,
        every: float = BETWEEN_QUESTIONS,
        label: str = "",
    ):
        """
        Args:
            job: its number.
            log: of rank 0; may not be there yet.
            state: asked for state and reason of the job; None: Slurm is.
            every: seconds between two questions.
            label: stands before each line, where several logs are followed.
        """
        self._job, self._log, self._state, self._every = job, log, state or job_state, every
        self._start = f"{label}: " if label else ""
        self._place, self._ask_at = 0, 0.0
        self._told: tuple[str, str] | None = None

    def look(self) -> str | None:
        """Print what is new; the state in which the job has ended, None while it has not."""
        found = self._told
        if found is not None and found[0] not in LIVE:
            return found[0]
        if time.monotonic() >= self._ask_at:
            found, self._ask_at = self._state(self._job), time.monotonic() + self._every
        ended = found is not None and found[0] not in LIVE
        self._print_more(to_the_end=ended)  # after the question: all that an ended job has written is there
        if found != self._told and found is not None:
            self._told = found
            why = f" ({found[1]})" if found[1] else ""
            print(f"{self._start}job {self._job}: {found[0]}{why}", file=sys.stderr, flush=True)
        return found[0] if found is not None and ended else None

    def _print_more(self, *, to_the_end: bool) -> None:
        try:
            with self._log.open("rb") as file:
                file.seek(self._place)
                more = file.read()
        except FileNotFoundError:
            return
        if self._start and not to_the_end:
            more = more[: more.rfind(b"\n") + 1]  # whole lines, between which another log's may stand
        self._place += len(more)
        text = more.decode(errors="replace")
        if self._start:
            text = "".join(f"{self._start}{line}\n" for line in text.splitlines())
        sys.stdout.write(text)
        sys.stdout.flush()


def follow(
    job: str, log: Path, state: Callable[[str], tuple[str, str]] | None = None, *, every: float = BETWEEN_QUESTIONS
) -> str:
    """Print what is and will be in a job's log until the job ends; the state in which it then is. Arguments as those of
    `Follower`."""
    one = Follower(job, log, state, every=every)
    while (ended := one.look()) is None:
        time.sleep(BETWEEN_LOOKS)
    return ended


def job_state(job: str) -> tuple[str, str]:
    """State and reason of a job in Slurm's words."""
    try:
        values = job_values(job)
    except SlurmError as error:
        return UNKNOWN, str(error)
    reason = values.get("Reason", "None")
    return values.get("JobState", FORGOTTEN), "" if reason == "None" else reason
