"""A chain of jobs without Slurm, to try one: submitit's `local` (processes of this machine) and `debug` (in here).

There is no queue to go back to: a run that was stopped, or has crashed, ends its job.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import submitit

from ofa.cluster.errors import SubmitError
from ofa.cluster.follow import follow
from ofa.cluster.submit import Link, Submitted, note, task
from ofa.config import CHECKOUT

CLUSTERS = ("local", "debug")


def run_here(chain: Sequence[Link], cluster: str, folder: Path, *, watch: bool) -> list[Submitted]:
    """Do a chain, each link after the success of the one before; the last is left to run by itself.

    Args:
        chain: in order.
        cluster: one of `CLUSTERS`.
        folder: of submitit's files.
        watch: follow the logs, of the last link too.

    Raises:
        SubmitError: a job failed, with its log; those after it are not begun.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done: list[Submitted] = []
    for link in chain:
        if link.resources.nodes != (1, 1):
            raise SubmitError(f"--cluster {cluster} has one node, this one")
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(
            nodes=1,
            tasks_per_node=link.resources.processes,
            gpus_per_node=link.resources.gpus_per_node,
            timeout_min=link.resources.minutes,
            stderr_to_stdout=True,
        )
        jobs = [(call, executor.submit(task(call, link, folder, CHECKOUT))) for call in link.calls]
        started = [Submitted(job.job_id, call, folder / f"{job.job_id}_0_log.out") for call, job in jobs]
        for one in started:
            note(one)
        done += started
        if link is not chain[-1] or watch or cluster == "debug":
            for one, (_, job) in zip(started, jobs, strict=True):
                _wait(one, job, watch=watch and cluster == "local")
    return done


def _wait(submitted: Submitted, job: submitit.Job[int], *, watch: bool) -> None:
    if watch:
        follow(submitted.job, submitted.log, lambda _: ("COMPLETED" if job.done() else "RUNNING", ""))
    try:
        job.results()
    except Exception as error:  # submitit wraps whatever it was
        last = str(error).strip().splitlines()[-1:]
        raise SubmitError(f"{submitted.call.name} failed: {submitted.log}: {''.join(last)}") from None
