"""Cells as processes on this machine: each has its share of the cores, and a GPU of its own where there are several."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from ofa.cluster.shares import at_place, cores_of, free_place, visible_gpus
from ofa.config import TrainingConfig
from ofa.sweep.cells import Cell
from ofa.sweep.output import open_output, output_path, why_it_failed


class LocalRun:
    """A cell that runs as a process."""

    def __init__(self, cell: Cell, more: Sequence[str], environment: dict[str, str]):
        self.output = output_path(cell)
        with open_output(cell) as out:
            self._process = subprocess.Popen(
                cell.command(*more), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    def poll(self) -> int | None:
        """Its exit status, minus a signal's number if that ended it; None while it runs."""
        return self._process.poll()

    def why(self, status: int) -> str:
        """Why it failed."""
        return why_it_failed(self.output, status)

    def stop(self, number: int) -> None:
        """Pass a signal on: the run saves and ends."""
        self._process.send_signal(number)


class LocalStarter:
    """Starts cells in a number of places side by side."""

    def __init__(self, workers: int):
        self.workers = workers
        self._gpus = visible_gpus()
        self._places: dict[str, int] = {}

    def start(self, cell: Cell, config: TrainingConfig, more: Sequence[str], running: Sequence[str]) -> LocalRun:
        """Start a cell in a place that none of the running ones has.

        Args:
            config: the cell's; threads that it does not give are this place's share of the cores.
            more: further arguments of the command line.
            running: names of the cells that run.
        """
        place = self._places[cell.name] = free_place({self._places[name] for name in running})
        environment = dict(os.environ)
        if self.workers > 1:
            threads = cores_of(self.workers)
            environment["OMP_NUM_THREADS"] = str(threads)
            if config.engine.threads is None:
                more = ["--set", f"engine.threads={threads}", *more]
            if len(self._gpus) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(at_place(place, self._gpus))
        return LocalRun(cell, more, environment)

    def look_after(self, cell: Cell) -> None:
        """Processes of another sweep are no children of this one."""
