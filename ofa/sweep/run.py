"""Doing a sweep: cells come in, each is started when those that it needs are done and there is room, and what became of
each goes out.

One thread looks at all of them in turns: there are few, they run for minutes, and signals reach it at any moment. What
is done is known from the run folders alone, so a sweep that was killed has nothing of its own to repair.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ofa.config import TrainingConfig
from ofa.run_files import is_held
from ofa.slurm.errors import SubmitError
from ofa.stop import INTERRUPTED, SIGNALS
from ofa.sweep.cells import Cell

BETWEEN_TRIES = 60.0
"""Seconds after which Slurm is offered a job again that it did not take: queues have limits, controllers restart."""

LONGEST_REFUSAL = 24 * 3600.0
"""Seconds after which a sweep of which nothing runs is given up, if Slurm has taken nothing since."""

BETWEEN_LOOKS = 0.2
"""Seconds between two looks at the cells that run."""

STOPPED_AND_SAVED = 75


class Running(Protocol):
    """A cell that was started, here or by Slurm."""

    output: Path
    """Where what it says stands."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        ...

    def why(self, status: int) -> str:
        """Why it failed, once it has ended with this status."""
        ...

    def stop(self, number: int) -> None:
        """Ask it to save and end, as the signal does.

        Raises:
            SubmitError: Slurm cannot be asked.
        """
        ...


class Starter(Protocol):
    """What starts cells."""

    workers: int

    def start(self, cell: Cell, config: TrainingConfig, more: Sequence[str], running: Sequence[str]) -> Running:
        """Start one.

        Raises:
            SubmitError: Slurm does not take it, or cannot be asked.
        """
        ...

    def look_after(self, cell: Cell) -> Running | None:
        """What an earlier sweep has started and somebody else's process now runs, if it can be watched and stopped as
        if this one had started it.

        Raises:
            SubmitError: Slurm cannot be asked.
        """
        ...


@dataclass
class Outcome:
    """What became of the cells, by name."""

    done: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """With the reason."""

    def status(self) -> int:
        """Of the sweep's process: 1 if a cell failed, 75 if one is to be continued, else 0."""
        return 1 if self.failed else STOPPED_AND_SAVED if self.stopped else 0


class Sweep:
    """Cells on their way."""

    def __init__(
        self,
        cells: Sequence[Cell],
        configs: Mapping[str, TrainingConfig],
        starter: Starter,
        *,
        arguments: Sequence[str] = (),
        after: Callable[[Outcome], None],
        stop: Path | None = None,
    ):
        """
        Args:
            cells: to be done, each after those that it needs.
            configs: of the cells, by name.
            starter: starts them.
            arguments: further ones of every command line.
            after: called when a cell has ended.
            stop: a file whose appearance asks to stop, as a signal does; removed when all have saved.
        """
        self._waiting = list(cells)
        self._total = len(cells)
        self._configs = configs
        self._starter = starter
        self._arguments = arguments
        self._after = after
        self._stop_file = stop
        self._running: dict[str, tuple[Cell, Running, float]] = {}
        self._asked: list[int] = []
        self._stopping = False
        self._told: set[str] = set()
        self._not_before = 0.0
        self._refused: tuple[str, float] | None = None
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until every cell has ended, or all that ran have saved after a signal."""
        with self._signals():
            try:
                while self._waiting or self._running:
                    self._look_for_the_stop_file()
                    self._pass_signals_on()
                    self._collect()
                    self._settle()
                    while (cell := self._next()) is not None:
                        self._start(cell)
                    time.sleep(BETWEEN_LOOKS if self._waiting or self._running else 0.0)
            except BaseException:
                self._ask_to_stop(signal.SIGTERM)  # nobody would look after them
                raise
        if self._stop_file is not None:
            self._stop_file.unlink(missing_ok=True)
        return self.outcome

    def _look_for_the_stop_file(self) -> None:
        if not self._stopping and self._stop_file is not None and self._stop_file.exists():
            self._stop(signal.SIGTERM, f"the file {self._stop_file}")

    def _pass_signals_on(self) -> None:
        while self._asked:
            number = self._asked.pop(0)
            self._stop(number, signal.Signals(number).name)

    def _stop(self, number: int, why: str) -> None:
        self._stopping = True
        print(f"{why}: waiting for {len(self._running)} cells to save", flush=True)
        self._ask_to_stop(number)

    def _ask_to_stop(self, number: int) -> None:
        """Every cell that runs, whether or not another could be asked."""
        for cell, running, _ in self._running.values():
            try:
                running.stop(number)
            except (SubmitError, OSError) as error:
                self._say(cell, f"not asked to stop: {error}")

    def _collect(self) -> None:
        """Take note of cells that have ended."""
        for name, (cell, running, began) in list(self._running.items()):
            status = running.poll()
            if status is None:
                continue
            del self._running[name]
            self._ended(cell, running, status, f", {time.monotonic() - began:.0f} s")

    def _ended(self, cell: Cell, running: Running, status: int, took: str) -> None:
        if status == 0 and cell.is_done():
            self.outcome.done.append(cell.name)
            self._say(cell, f"done{took}")
        elif status == STOPPED_AND_SAVED or (self._stopping and (status < 0 or status == INTERRUPTED)):
            self.outcome.stopped.append(cell.name)
            self._say(cell, f"stopped{took}; start the sweep again to continue it")
        else:
            why = "it ended well without a result.json" if status == 0 else running.why(status)
            self._fail(cell, why)
        self._after(self.outcome)

    def _settle(self) -> None:
        """Take note of cells that need no start, or can have none."""
        for cell in list(self._waiting):
            failed = [name for name in cell.needs if name in self.outcome.failed]
            stopped = [name for name in cell.needs if name in self.outcome.stopped]
            if cell.is_done():
                self.outcome.done.append(cell.name)
                self._say(cell, "already done")
            elif failed:
                self._fail(cell, f"not started: it needs {failed[0]}, which failed")
            elif stopped or self._stopping:
                self.outcome.stopped.append(cell.name)
            else:
                continue
            self._waiting.remove(cell)

    def _next(self) -> Cell | None:
        """A cell that can be started now, or may be running already."""
        if self._asked or self._stopping or len(self._running) >= self._starter.workers:
            return None
        if time.monotonic() < self._not_before:
            return None
        under_way = {cell.name for cell in self._waiting} | self._running.keys()
        for cell in self._waiting:
            if any(name in under_way for name in cell.needs):
                continue
            if cell.name not in self._told or not is_held(cell.folder.path):
                return cell
        return None

    def _start(self, cell: Cell) -> None:
        held = is_held(cell.folder.path)  # of a sweep that was killed, or started by hand
        try:
            if held:
                running = self._starter.look_after(cell)
            else:
                running = self._starter.start(cell, self._configs[cell.name], self._arguments, list(self._running))
        except SubmitError as error:
            self._wait_and_try_again(cell, error)
            return
        self._refused = None
        if running is None:
            self._told.add(cell.name)
            self._say(cell, "another process is running it: waiting for that to end")
            return
        self._waiting.remove(cell)
        self._running[cell.name] = cell, running, time.monotonic()
        how = "runs already" if held else "started again" if cell.folder.has_started() else "started"
        self._say(cell, f"{how}; what it says stands in {running.output}")

    def _wait_and_try_again(self, cell: Cell, error: SubmitError) -> None:
        """Leave a cell waiting that Slurm did not take; said once for each reason.

        Raises:
            SubmitError: it has taken nothing for long, and nothing runs after which it might.
        """
        now = time.monotonic()
        words, since = self._refused or ("", now)
        if not self._running and now - since > LONGEST_REFUSAL:
            raise error
        if words != str(error):
            self._say(cell, f"not submitted yet: {error}; trying again every {BETWEEN_TRIES:.0f} s")
        self._refused, self._not_before = (str(error), since), now + BETWEEN_TRIES

    def _fail(self, cell: Cell, why: str) -> None:
        self.outcome.failed[cell.name] = why
        self._say(cell, f"failed: {why}")

    def _say(self, cell: Cell, words: str) -> None:
        ended = len(self.outcome.done) + len(self.outcome.failed)
        print(f"[{ended}/{self._total}] {cell.name}: {words}", flush=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are noted, and passed on at the next look."""
        before = {number: signal.signal(number, lambda number, _: self._asked.append(number)) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
