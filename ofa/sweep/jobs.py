"""Cells as jobs of submitit: Slurm's, or its `local` cluster's to try a sweep without Slurm.

A job is the same command in a process below submitit's. When Slurm wants the node back or the time is up, the run
saves and the job is queued again. Stopping the sweep takes jobs that wait out of the queue and asks those that run to
save, by the stop file in their run folder: signals that come through Slurm would queue them again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from ofa.config import CHECKOUT, TrainingConfig
from ofa.sweep.axes import SweepError
from ofa.sweep.cells import Cell
from ofa.sweep.output import open_output

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
"""States of Slurm in which nothing of a job runs."""

BETWEEN_LOOKS = 0.5
"""Seconds between two looks at the process, inside a job."""


class Job:
    """What submitit calls inside a job: the command in a process of its own, and its status."""

    def __init__(self, command: list[str], output: Path):
        self._command = command
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run it to its end."""
        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export()
        with self._output.open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=subprocess.STDOUT)
        while self._process.poll() is None:  # not wait: its lock would be held when `checkpoint` comes as a signal
            time.sleep(BETWEEN_LOOKS)
        return self._process.returncode

    def checkpoint(self) -> DelayedSubmission:
        """Called when the job is to end: let the run save, and what is to be queued in its place."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR2)
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self._command, self._output))


class JobRun:
    """A cell that is a job."""

    def __init__(self, cell: Cell, job: submitit.Job[int]):
        self._cell = cell
        self._job = job

    def poll(self) -> int | None:
        """The highest status of its tasks; None while it waits or runs."""
        if not self._job.done():
            return None
        try:
            return max(self._job.results())
        except (FailedJobError, UncompletedJobError) as error:
            with open_output(self._cell) as out:
                out.write(f"job {self._job.job_id}: {str(error).strip()}\n".encode())
            return 1

    def stop(self, number: int) -> None:
        """Ask the run to save, or take the job out of the queue."""
        if self._job.state in WAITING:
            self._job.cancel()
        else:
            self._cell.folder.stop.touch()


class JobStarter:
    """Submits cells."""

    def __init__(self, folder: Path, parameters: dict[str, Any], workers: int):
        """
        Args:
            folder: of submitit's own files.
            parameters: `slurm` of the sweep's config.
            workers: jobs that may wait or run at a time.

        Raises:
            SweepError: submitit does not take them, or there is no Slurm here.
        """
        self.workers = workers
        given = {"name": "sweep", **parameters}
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=given.pop("cluster", "slurm"))
            self._executor.update_parameters(**given)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise SweepError(f"slurm: submitit says: {' '.join(str(error).split())}") from error

    def start(self, cell: Cell, config: TrainingConfig, more: Sequence[str], running: Sequence[str]) -> JobRun:
        """Submit a cell; arguments as those of `LocalStarter.start`."""
        cell.folder.stop.unlink(missing_ok=True)  # of an attempt that ended before it looked
        with open_output(cell) as out:
            output = Path(out.name)
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # a job finds `ofa` as this process does
        return JobRun(cell, self._executor.submit(Job(cell.command(*more), output.absolute())))
