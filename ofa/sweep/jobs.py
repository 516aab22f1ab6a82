"""Cells as jobs: Slurm's, or submitit's `local` ones to try a sweep without Slurm.

A job is what `launch/submit.py` makes of the cell's command (`ofa.cluster`): it runs the code of a commit, goes back
into the queue after preemption, limits, lost nodes and crashes, and notes its attempts in the run folder, from which
the sweep learns what became of it. Stopping the sweep takes jobs that wait out of the queue and asks those that run to
save, by the stop file in their run folder: signals that come through Slurm would queue them again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ofa.cluster import partitions
from ofa.cluster.attempts import attempts_of
from ofa.cluster.division import check_batch
from ofa.cluster.follow import UNKNOWN
from ofa.cluster.here import check_here, start_here
from ofa.cluster.jobs_file import live_local_job, noted_jobs
from ofa.cluster.queue import QueuedJob, queued, still_queued
from ofa.cluster.resources import Resources, check_options
from ofa.cluster.shares import fitting, free_place
from ofa.cluster.submit import Link, ask_slurm, submit
from ofa.cluster.verdict import STOPPED_AND_SAVED, Limits
from ofa.config import CHECKOUT, JobConfig, TrainingConfig
from ofa.sections.nodes import node_list, node_range
from ofa.slurm.commands import SlurmError, ask
from ofa.slurm.snapshot import Code, snapshot
from ofa.sweep.cells import Cell
from ofa.sweep.output import failure, why_it_failed

ALL_AT_ONCE = 1000
"""Jobs that are queued at a time, if no number is given."""

BETWEEN_QUESTIONS = 5.0
"""Seconds between two questions to Slurm, each about all jobs."""

FRESH = 1.0
"""Seconds for which an answer holds when jobs are to be taken back."""

LAG = 60.0
"""Seconds within which one machine sees what another has written on a disk that they share."""


class Queue:
    """Jobs of a sweep in Slurm's queue."""

    def __init__(self):
        self._jobs: set[str] = set()
        self._found: dict[str, QueuedJob] = {}
        self._asked_at = float("-inf")
        self._told: str | None = None

    def watch(self, job: str) -> None:
        """Ask about this one too, from now on."""
        self._jobs.add(job)
        self._found[job] = QueuedJob(UNKNOWN, "")

    def state(self, job: str, *, age: float = BETWEEN_QUESTIONS) -> QueuedJob | None:
        """What Slurm has said of a watched job at most `age` seconds ago; None: it has left the queue."""
        if time.monotonic() - self._asked_at > age:
            self._asked_at = time.monotonic()
            self._ask()
        return self._found.get(job)

    def forget(self, job: str) -> None:
        """Ask no longer about one that has ended."""
        self._jobs.discard(job)

    def _ask(self) -> None:
        try:
            self._found, self._told = queued(self._jobs), None
        except SlurmError as error:  # what it said last holds until it answers
            if self._told != str(error):
                self._told = str(error)
                print(f"note: {error}; asking again", file=sys.stderr, flush=True)


class JobRun:
    """A cell that is a job."""

    def __init__(
        self,
        cell: Cell,
        job: str,
        output: Path,
        *,
        is_over: Callable[[], bool],
        take_back: Callable[[], bool],
        lag: float,
        since: str = "",
    ):
        """
        Args:
            cell: that it does.
            job: its number.
            output: its log.
            is_over: whether it has ended, for good.
            take_back: takes it out of the queue if it waits there; whether it did.
            lag: seconds after its end in which its record is seen here.
            since: when it was submitted, of a local one (`attempts_of`).
        """
        self.output = output
        self._cell = cell
        self._job = job
        self._is_over = is_over
        self._take_back = take_back
        self._lag = lag
        self._since = since
        self._over_since: float | None = None

    def poll(self) -> int | None:
        """The status of its last attempt, as if it were a process, 1 if it has saved but was given up; None while it
        waits or runs."""
        if not self._is_over():
            return None
        folder = self._cell.folder.path
        with contextlib.suppress(OSError):
            os.listdir(folder)  # after which network file systems see what is new in it
        attempts = attempts_of(folder, self._job, self._since)
        if attempts and attempts[-1].end is not None:
            end = attempts[-1].end
            return 1 if end.status == STOPPED_AND_SAVED and end.error else end.status
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since < self._lag:
            return None
        if attempts:
            return -signal.SIGKILL
        return 1 if self.output.exists() else -signal.SIGTERM  # it could not begin; it was taken out of the queue

    def why(self, status: int) -> str:
        """Why it failed."""
        attempts = attempts_of(self._cell.folder.path, self._job, self._since)
        if attempts:
            return failure(status, attempts[-1].end.error if attempts[-1].end else None)
        return f"job {self._job}, before it began: {why_it_failed(self.output, status)}"

    def stop(self, number: int) -> None:
        """Take the job out of the queue, or ask the run to save, also where Slurm does not answer: then once it runs.

        Raises:
            SlurmError: it does not.
        """
        taken = False
        try:
            taken = self._take_back()
        finally:
            if not taken:
                self._cell.folder.stop.touch()


class JobStarter:
    """Submits cells."""

    def __init__(self, folder: Path, asked: JobConfig, workers: int | None, *, uncommitted: bool = False):
        """
        Args:
            folder: of submitit's own files, and of the code that the jobs run.
            asked: `slurm` of the sweep's config.
            workers: jobs that may wait or run at a time; None: all of Slurm's, and of local ones what fits here.
            uncommitted: run the checkout's files as they are.

        Raises:
            SubmitError: the code is of no commit.
        """
        self._folder = folder.absolute()
        self._is_local = asked.cluster == "local"
        self._limits = Limits(asked.max_requeues, asked.max_crashes, asked.max_kills)
        self._resources = _resources(asked)
        self.workers = workers or (fitting(self._resources) if self._is_local else ALL_AT_ONCE)
        self._places: dict[str, int] = {}
        self._code = Code(CHECKOUT, None)
        if not self._is_local:
            self._code = snapshot(CHECKOUT, self._folder / "code", uncommitted=uncommitted)
        self._queue = Queue()

    def check(self, cells: Sequence[Cell], configs: Mapping[str, TrainingConfig]) -> None:
        """Refuse what no job could do, before any is queued.

        Args:
            cells: at least one.
            configs: of the cells, by name.

        Raises:
            SubmitError: the ranks cannot share a cell's steps; Slurm, or this machine, has not what is asked for.
        """
        link = self._link(cells[0], ())
        self._resources.check()
        if self._is_local:
            check_here([link], "local")
        else:
            partitions.check(self._resources, partitions.partitions())
        for cell in cells:
            check_batch(f"cell {cell.name}", configs[cell.name].batch, self._resources, "slurm.nodes=")
        if not self._is_local:
            ask_slurm([link], self._folder, self._code)

    def start(self, cell: Cell, config: TrainingConfig, more: Sequence[str], running: Sequence[str]) -> JobRun:
        """Submit a cell, or look after the job that a sweep that was killed has left in the queue for it.

        Args:
            cell, config, more, running: as those of `LocalStarter.start`.

        Raises:
            SubmitError: Slurm does not take it, or does not answer.
        """
        cell.folder.stop.unlink(missing_ok=True)  # of an attempt that ended before it looked
        link = self._link(cell, more)
        left = self.look_after(cell)
        if left is not None:
            return left
        if self._is_local:
            place = free_place({self._places[name] for name in running if name in self._places})
            ((submitted, job),) = start_here(link, "local", self._folder, place=place, places=self.workers)
            self._places[cell.name] = place
            return _local(cell, submitted.job, submitted.log, job.done, submitted.since)
        (submitted,) = submit([link], self._folder, self._code)
        return self._watched(cell, submitted.job, submitted.log)

    def look_after(self, cell: Cell) -> JobRun | None:
        """The job that a sweep that was killed has left for a cell: in the queue, where it waits or runs, or here.

        Raises:
            SlurmError: there is no answer.
        """
        if self._is_local:
            noted = live_local_job(cell.folder.path)
            if noted is None or noted.process is None or noted.log is None:
                return None
            process = noted.process
            return _local(cell, noted.job, noted.log, lambda: not process.lives, noted.time)
        left = self._left_in_queue(cell)
        return None if left is None else self._watched(cell, *left)

    def _link(self, cell: Cell, more: Sequence[str]) -> Link:
        return Link((cell.call(*more),), self._resources, self._limits, 1)

    def _watched(self, cell: Cell, job: str, log: Path) -> JobRun:
        self._queue.watch(job)

        def is_over() -> bool:
            if self._queue.state(job) is not None:
                return False
            self._queue.forget(job)
            return True

        def take_back() -> bool:
            state = self._queue.state(job, age=FRESH)
            if state is None or state.has_nodes:
                return False
            ask("scancel", job)
            return True

        return JobRun(cell, job, log, is_over=is_over, take_back=take_back, lag=LAG)

    def _left_in_queue(self, cell: Cell) -> tuple[str, Path] | None:
        """Number and log of a cell's job that waits or runs."""
        noted = [one for one in noted_jobs(cell.folder.path) if one.log is not None]
        there = still_queued(noted)
        return next(((one.job, one.log) for one in noted if one.job in there and one.log is not None), None)


def _local(cell: Cell, job: str, log: Path, is_over: Callable[[], bool], since: str) -> JobRun:
    """A cell that is a job of this machine, which has no queue."""
    return JobRun(cell, job, log, is_over=is_over, take_back=lambda: False, lag=0.0, since=since)


def _resources(asked: JobConfig) -> Resources:
    check_options(asked.sbatch)
    nodes = str(asked.nodes)
    return Resources(
        nodes=node_range(nodes),
        only=node_list(nodes),
        gpus_per_node=asked.gpus_per_node,
        tasks_per_node=asked.tasks_per_node,
        cpus_per_task=asked.cpus_per_task,
        mem_gb=asked.mem_gb,
        minutes=asked.minutes,
        grace=asked.grace,
        partition=asked.partition,
        account=asked.account,
        qos=asked.qos,
        constraint=asked.constraint,
        exclude=asked.exclude,
        setup=tuple(asked.setup),
        other=tuple(asked.sbatch),
    )
