"""What Slurm's queue says of jobs, where there is one: one call of `squeue` for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass

from ofa.cluster.slurm import NO_SUCH_JOB, ask, job_values

PATIENCE = 20.0
"""Seconds that the controller is given to answer: somebody waits for a table."""

RUNS = frozenset({"RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"})
"""States of Slurm in which a job has its nodes; in the others that `squeue` lists it waits for some."""


ENDS = "COMPLETING"
"""That in which Slurm has begun to take them away."""


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
        SlurmError: the controller does not answer.
    """
    if not jobs:
        return {}
    command = ("squeue", "--noheader", "--array", "--format=%i|%T|%r", "--jobs", ",".join(sorted(jobs)))
    return parse(ask(*command, patience=PATIENCE, forgiven=NO_SUCH_JOB))


def is_running(job: str, patience: float = PATIENCE) -> bool:
    """Whether Slurm lets a job run, and has not begun to end it: cancelled it, or put it back into the queue.

    Args:
        job: its number.
        patience: seconds that the controller is given.

    Raises:
        SlurmError: the controller does not answer.
    """
    state = job_values(job, patience).get("JobState")
    return state in RUNS and state != ENDS


def parse(text: str) -> dict[str, QueuedJob]:
    """Lines of `squeue --format=%i|%T|%r`."""
    found = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if state:
            found[job] = QueuedJob(state, "" if reason == "None" else reason)
    return found
