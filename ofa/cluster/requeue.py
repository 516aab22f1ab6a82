"""A job's own way back into Slurm's queue: asked again while the controller is busy, as long as there is time."""

from __future__ import annotations

import shutil
import time

from ofa.cluster.log import say
from ofa.cluster.queue import is_running
from ofa.slurm.commands import SlurmError, ask

PATIENCE = 120.0
"""Seconds for it where nothing ends the job: after a crash."""

BETWEEN = 5.0
"""Seconds between two tries."""

LEAST = 5.0
"""Seconds that the controller is given to answer, however late it is."""


def missing() -> str | None:
    """Why no job of this node could be queued again, in words; None: nothing is known against it."""
    if shutil.which("scontrol") is not None:
        return None
    return "there is no scontrol on this node: what is not done within this attempt cannot be queued again from here"


def requeue(job: str, until: float, why: str) -> bool:
    """Put the job back into the queue that this process is of; False: it was cancelled, or Slurm has done it itself.

    Args:
        job: its number.
        until: when to give up, by `time.monotonic`; one try is always made.
        why: said in its log.

    Raises:
        SlurmError: of the last try.
    """
    failed = False
    while True:
        patience = max(LEAST, until - time.monotonic())
        try:
            if not is_running(job, patience):
                return False
            if not failed:
                say(f"{why}: queueing job {job} again")
            ask("scontrol", "requeue", job, patience=patience)
            return True
        except SlurmError as error:
            if time.monotonic() + BETWEEN > until:
                raise
            if not failed:
                say(f"job {job} is not queued again yet: {error}")
            failed = True
        time.sleep(BETWEEN)
