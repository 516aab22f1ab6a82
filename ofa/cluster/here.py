"""A chain of jobs without Slurm, to try one: submitit's `local` (processes of this machine) and `debug` (in here).

There is no queue to go back to: a run that was stopped, or has crashed, ends its job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import submitit

from ofa.cluster.follow import BETWEEN_LOOKS, follow
from ofa.cluster.submit import Link, Submitted, job_name, note, task
from ofa.config import CHECKOUT
from ofa.slurm.environment import python_path
from ofa.slurm.errors import SubmitError

OF_SLURM = ("partition", "account", "qos", "constraint", "exclude", "cpus_per_task")
"""Of `Resources`: what only Slurm knows, and a run of this machine may do without."""


def check_here(chain: Sequence[Link], cluster: str) -> None:
    """Refuse what needs more than this machine, or its own shell.

    Raises:
        SubmitError: a link asks for several nodes, for processes where there is one, or for commands of the shell.
    """
    if cluster == "debug" and any(link.resources.processes > 1 for link in chain):
        raise SubmitError("--cluster debug has one process, this one; --cluster local has as many as are asked for")
    if any(link.resources.nodes != (1, 1) for link in chain):
        raise SubmitError(f"--cluster {cluster} has one node, this one")
    if any(link.resources.setup for link in chain):
        raise SubmitError(
            f"--cluster {cluster} runs in the environment of this shell: give the commands of --setup here before it, "
            "and leave that out"
        )


def meaningless_here(chain: Sequence[Link]) -> list[str]:
    """Options of Slurm alone that were given, and change nothing here, as they are typed."""
    found: list[str] = []
    for asked in (link.resources for link in chain):
        values = {name: getattr(asked, name) for name in OF_SLURM} | {"mem": asked.mem_gb}
        found += [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
        found += ["--sbatch"] if asked.other else []
    return list(dict.fromkeys(found))


def run_here(chain: Sequence[Link], cluster: str, folder: Path, *, watch: bool) -> list[Submitted]:
    """Do a chain, each link after the success of the one before; the last is left to run by itself.

    Args:
        chain: in order.
        cluster: `local` or `debug`.
        folder: of submitit's files.
        watch: follow the logs, of the last link too.

    Raises:
        SubmitError: a job failed, with its log; those after it are not begun.
    """
    done: list[Submitted] = []
    for link in chain:
        started: list[tuple[Submitted, submitit.Job[int]]] = []
        for call in link.calls:
            while sum(not job.done() for _, job in started) >= link.at_a_time:
                time.sleep(BETWEEN_LOOKS)
            started += start_here(replace(link, calls=(call,)), cluster, folder)
        done += [one for one, _ in started]
        if link is not chain[-1] or watch or cluster == "debug":
            for one, job in started:
                _wait(one, job, watch=watch and cluster == "local")
    return done


def start_here(link: Link, cluster: str, folder: Path) -> list[tuple[Submitted, submitit.Job[int]]]:
    """Start the jobs of a link side by side; arguments as those of `run_here`."""
    os.environ["PYTHONPATH"] = python_path()
    os.environ.pop("SUBMITIT_PREEMPT_SIGNAL", None)  # a run listens to submitit's own choice
    executor = submitit.LocalExecutor(folder) if cluster == "local" else submitit.DebugExecutor(folder)
    executor.update_parameters(
        tasks_per_node=link.resources.processes,
        gpus_per_node=link.resources.gpus_per_node,
        timeout_min=link.resources.minutes,
        signal_delay_s=link.resources.grace,
        stderr_to_stdout=True,
    )
    started = []
    for call in link.calls:
        job = executor.submit(task(call, link, folder, CHECKOUT))
        started.append((Submitted(job.job_id, call, folder / f"{job.job_id}_0_log.out"), job))
        note(started[-1][0], name=job_name(link), is_local=True)
    return started


def _wait(submitted: Submitted, job: submitit.Job[int], *, watch: bool) -> None:
    if watch:
        follow(submitted.job, submitted.log, lambda _: (_state(job), ""))
    try:
        job.results()
    except Exception as error:  # submitit wraps whatever it was
        last = str(error).strip().splitlines()[-1:]
        raise SubmitError(f"{submitted.call.name} failed: {submitted.log}: {''.join(last)}") from None


def _state(job: submitit.Job[int]) -> str:
    """In Slurm's words."""
    if not job.done():
        return "RUNNING"
    return "COMPLETED" if job.exception() is None else "FAILED"
