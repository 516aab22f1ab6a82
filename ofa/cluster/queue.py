"""What Slurm's queue says of jobs, where there is one: one call of `squeue` for all of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

PATIENCE = 20.0
"""Seconds that the controller is given to answer."""

RUNS = frozenset({"RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"})
"""States of Slurm in which a job has its nodes; in the others that `squeue` lists it waits for some."""

UNKNOWN = "Invalid job id"
"""Slurm forgets jobs soon after their end, and refuses to speak of one alone that it has forgotten."""


class QueueError(ValueError):
    """The queue cannot be read."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that has not ended."""

    state: str
    """Slurm's word, such as PENDING."""

    reason: str
    """Why it waits, in Slurm's word, such as Resources or BeginTime."""

    @property
    def has_nodes(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in RUNS


def has_slurm() -> bool:
    """Whether this machine can ask a queue."""
    return shutil.which("squeue") is not None


def queued(jobs: Collection[str]) -> dict[str, QueuedJob]:
    """Those of the jobs that have not ended, by number (`17`, or `17_3` of an array).

    Raises:
        QueueError: the controller does not answer.
    """
    if not jobs:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", "--jobs", ",".join(sorted(jobs))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise QueueError(f"squeue did not answer within {PATIENCE:.0f} s") from None
    except OSError as error:
        raise QueueError(f"squeue cannot be run: {error.strerror}") from None
    if done.returncode and UNKNOWN not in done.stderr:
        raise QueueError(f"squeue says: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return parse(done.stdout)


def parse(text: str) -> dict[str, QueuedJob]:
    """Lines of `squeue --format=%i|%T|%r`."""
    found = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if state:
            found[job] = QueuedJob(state, "" if reason == "None" else reason)
    return found
