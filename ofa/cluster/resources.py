"""What is asked of Slurm for a job, and the words in which submitit takes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.slurm.errors import SubmitError
from ofa.slurm.options import option

SIGNAL = "USR2"
"""By which Slurm asks to save (`ofa.cluster.attempt`), whatever SUBMITIT_PREEMPT_SIGNAL says of submitit's own."""

SRUN = ("--kill-on-bad-exit=0", "--no-kill", "--wait=0", "--open-mode=append")
"""The task of rank 0 outlives the others, to decide what becomes of the job, also when a node is lost; logs grow over
restarts."""

WRITTEN = {
    "job-name": "the script and its run folder",
    "nodes": "--nodes",
    **dict.fromkeys(("gpus-per-node", "gpus", "gpus-per-task"), "--gpus-per-node"),
    **dict.fromkeys(("ntasks", "ntasks-per-node"), "--tasks-per-node, or --gpus-per-node,"),
    "cpus-per-task": "--cpus-per-task",
    "mem": "--mem",
    "time": "--time",
    "signal": "--grace",
    **{key: f"--{key}" for key in ("partition", "account", "qos", "constraint", "exclude")},
    "array": "--each",
    **dict.fromkeys(("output", "error", "open-mode"), "--jobs, the folder of all logs,"),
    **dict.fromkeys(("requeue", "no-requeue"), "--max-requeues 0, for a job that is not to be queued again,"),
}
"""Options of sbatch that every job has, and what they are said by: said twice, one would be lost without a word."""

DEPENDENCY = "dependency"

START = 60
"""Seconds in which Python and its packages are loaded, from a slow disk that all nodes share."""

SLACK = 60
"""Seconds by which Slurm may signal earlier than it is told to (`man sbatch`, --signal)."""

BEGAN = "OFA_JOB_BEGAN"
"""Variable of a job: when Slurm started it, in seconds since 1970."""


@dataclass(frozen=True)
class Resources:
    """Of one job, or of each job of an array."""

    nodes: tuple[int, int] = (1, 1)
    """Fewest and most: with fewer than the most, a run goes on with those that are left of lost ones."""

    only: tuple[int, ...] = ()
    """Of that range, how many a run may have, fewest first; (): any. Those above stay idle."""

    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    """Processes; None: one for each GPU, or one."""

    cpus_per_task: int | None = None
    mem_gb: float | None = None
    """Of a node; 0: all of it."""

    minutes: int = 60
    """Limit of one attempt."""

    grace: int = 120
    """Seconds before the limit at which Slurm asks to save."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    setup: tuple[str, ...] = ()
    """Commands of the shell that come first."""

    other: tuple[str, ...] = ()
    """Further `KEY=VALUE` of sbatch."""

    @property
    def processes(self) -> int:
        """On each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    def node_counts(self) -> list[int]:
        """How many nodes a run may have, fewest first."""
        return list(self.only or range(self.nodes[0], self.nodes[1] + 1))

    def rank_counts(self) -> list[int]:
        """How many ranks there may be, fewest first."""
        return [nodes * self.processes for nodes in self.node_counts()]

    def check(self) -> None:
        """Refuse what could not be anywhere.

        Raises:
            SubmitError: there is no time to start before the signal, which would not be heard.
        """
        left = 60 * self.minutes - self.grace
        if left < SLACK + START:
            raise SubmitError(
                f"a grace of {self.grace} s leaves {f'{left} s' if left > 0 else 'nothing'} of {self.minutes} minutes, "
                f"and a run needs {START} s to start, and Slurm may signal {SLACK} s early: choose a shorter grace, or "
                "a longer time"
            )

    def in_words(self) -> str:
        """For people."""
        low, high = self.nodes
        nodes = _count(low, "node") if low == high else f"{low} to {high} nodes"
        nodes = f"{', '.join(map(str, self.only))} nodes" if self._has_gaps() else nodes
        gpus, processes = _count(self.gpus_per_node, "GPU"), _count(self.processes, "process", "processes")
        if self.gpus_per_node == self.processes:
            return f"{nodes} of {gpus}"
        return f"{nodes} of {gpus} and {processes}" if self.gpus_per_node else f"{nodes} of {processes}"

    def _has_gaps(self) -> bool:
        return len(self.node_counts()) <= self.nodes[1] - self.nodes[0]

    def parameters(self, name: str, code: Path, dependency: str | None) -> dict[str, Any]:
        """For submitit's SlurmExecutor.

        Args:
            name: of the job.
            code: folder whose `ofa` the job imports.
            dependency: in Slurm's words.
        """
        srun = [*SRUN, f"--ntasks-per-node={self.processes}"]
        srun += [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []  # not inherited
        pairs = [option(one) for one in self.other]
        jobs = [*filter(None, [dependency]), *(value for key, value in pairs if key == DEPENDENCY)]
        fewer = [_on_most_of(self.only)] if self._has_gaps() else []
        setup = [f"export {BEGAN}=$(date +%s)", *fewer, *self.setup, f"cd {shlex.quote(str(code))}"]
        is_range = self.nodes[0] < self.nodes[1]
        found: dict[str, Any] = {
            "job_name": name,
            "nodes": self.nodes[0],
            # Told that one task is on each node of a range, Slurm takes the fewest.
            "ntasks_per_node": None if is_range and self.processes == 1 else self.processes,
            "gpus_per_node": self.gpus_per_node or None,
            "cpus_per_task": self.cpus_per_task,
            "mem": None if self.mem_gb is None else _memory(self.mem_gb),
            "time": self.minutes,
            "signal_delay_s": self.grace,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "setup": [line for one in setup for line in _or_end(one)],
            DEPENDENCY: ",".join(jobs) or None,
            "stderr_to_stdout": True,
            "srun_args": srun,
        }
        more: dict[str, Any] = {"requeue": True, "signal": f"{SIGNAL}@{self.grace}"}
        if is_range:
            more["nodes"] = f"{self.nodes[0]}-{self.nodes[1]}"
        if found["dependency"] is not None:
            more["kill-on-invalid-dep"] = "yes"
        more |= {key: value for key, value in pairs if key != DEPENDENCY}
        found["additional_parameters"] = more
        return {key: value for key, value in found.items() if value is not None}


def minutes(seconds: float) -> int:
    """Slurm counts limits in minutes, the part of one as a whole one."""
    return math.ceil(seconds / 60)


def check_options(options: Sequence[str]) -> None:
    """Refuse what is no option of sbatch, and those that have an option here.

    Raises:
        SubmitError: it has not the form KEY=VALUE, or would undo what a job is written with; with what to say instead.
    """
    for one in options:
        key, value = option(one)
        if key in WRITTEN:
            raise SubmitError(f"--sbatch {one}: {WRITTEN[key]} says that")
        if key == DEPENDENCY and (value is True or "?" in value):  # a chain's own is joined to it
            raise SubmitError(f"--sbatch {one}: expected what must all have happened, as {key}=afterok:1,singleton")


def _or_end(command: str) -> list[str]:
    """A command of the shell, and the job's end if it fails, on a line of its own: a comment may end the first."""
    words = shlex.quote(f"error: this failed before the run: {command}")
    return [command, f"[ $? -eq 0 ] || {{ echo {words} >&2; exit 1; }}"]


def _on_most_of(numbers: Sequence[int]) -> str:
    """A command of the shell by which srun starts on the most nodes of these numbers that the job has; it reads how
    many, and would start as many tasks as all of them have."""
    most = f"for SLURM_NNODES in {' '.join(map(str, reversed(numbers)))}; do"
    most += ' [ "$SLURM_NNODES" -gt "$SLURM_JOB_NUM_NODES" ] || break; done'
    return f"{most}; export SLURM_NNODES SLURM_JOB_NUM_NODES=$SLURM_NNODES; unset SLURM_NTASKS SLURM_NPROCS"


def _memory(gigabytes: float) -> str:
    return "0" if gigabytes == 0 else f"{math.ceil(gigabytes * 1024)}M"


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"
