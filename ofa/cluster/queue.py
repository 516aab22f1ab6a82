"""What Slurm's queue says of jobs, where there is one: one call of `squeue` for all of them.

A number that is read from a file may by now be another one's: Slurm begins again from 1 some day, and another cluster
has numbers of its own. Whose job it is and how it is called tell.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ofa.cluster.jobs_file import NotedJob
from ofa.slurm.commands import NO_SUCH_JOB, ask, job_values

PATIENCE = 20.0
"""Seconds that the controller is given to answer: somebody waits for a table."""

COLUMNS = "%i|%T|%r|%U|%j"
"""Of `squeue --format`: number, state, reason, user by number, name."""

LINE = re.compile(r"([^|]+)\|([^|]+)\|(.*?)(?:\|(\d+)\|(.*))?")
"""Reasons may hold the mark too."""

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

    user: int | None = None
    """Who submitted it; None: nobody has said."""

    name: str | None = None
    """None: nobody has said."""

    @property
    def has_nodes(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in RUNS

    def is_of(self, user: int | None) -> bool:
        """Whether that user has submitted it, as far as can be told; None: who asks."""
        return self.user in (None, os.getuid() if user is None else user)


def has_slurm() -> bool:
    """Whether this machine can ask a queue."""
    return shutil.which("squeue") is not None


def whoever(jobs: Collection[str]) -> dict[str, QueuedJob]:
    """What has these numbers (`17`, or `17_3` of an array) and has not ended, whoever has submitted it, by number.

    Raises:
        SlurmError: the controller does not answer.
    """
    if not jobs:
        return {}
    command = ("squeue", "--noheader", "--array", f"--format={COLUMNS}", "--jobs", ",".join(sorted(jobs)))
    return parse(ask(*command, patience=PATIENCE, forgiven=NO_SUCH_JOB))


def queued(jobs: Collection[str]) -> dict[str, QueuedJob]:
    """Those of the jobs that this user has submitted and that have not ended, by number; raises as `whoever`."""
    return {number: job for number, job in whoever(jobs).items() if job.is_of(None)}


def still_queued(noted: Collection[NotedJob]) -> dict[str, QueuedJob]:
    """Those of the jobs that were noted which have not ended, by number; raises as `whoever`."""
    return among(noted, whoever({one.job for one in noted if not one.is_local}))


def among(noted: Collection[NotedJob], jobs: Mapping[str, QueuedJob]) -> dict[str, QueuedJob]:
    """Those that were noted among jobs of the queue, by number; none that only has the number of one.

    Args:
        noted: by whoever submitted them.
        jobs: as those of `whoever`.
    """
    return {one.job: jobs[one.job] for one in noted if one.job in jobs and _is_same(one, jobs[one.job])}


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
    """Lines of `squeue` with `COLUMNS`."""
    found = {}
    for line in text.splitlines():
        said = LINE.fullmatch(line.strip())
        if said is not None:
            job, state, reason, user, name = said.groups()
            found[job] = QueuedJob(state, "" if reason == "None" else reason, int(user) if user else None, name)
    return found


def _is_same(noted: NotedJob, found: QueuedJob) -> bool:
    same_name = None in (noted.name, found.name) or noted.name == found.name
    return not noted.is_local and same_name and found.is_of(noted.user)
