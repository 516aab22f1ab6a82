"""How far a preparation is, on the standard error: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from data_prep.counts import counted
from data_prep.pipeline import STEPS, Progress

SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def visible_progress() -> Iterator[Progress]:
    """What `prepare` tells how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with progress_lines() as progress:
            yield progress
        return
    counted = (TextColumn("{task.description:<17}"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"))
    timed = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Bars(*counted, *timed, console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(_numbered(step), total=total)
            bars.update(tasks[step], completed=done)

        yield advance


@contextmanager
def progress_lines(seconds: float = SECONDS_BETWEEN_LINES) -> Iterator[Progress]:
    """A line where a step begins and ends, and one every so many seconds, also while one part of a step takes long."""
    began, ended = time.monotonic(), threading.Event()
    reached, pace = "", Pace("")

    def say() -> None:
        left = pace.left()
        until = "" if left is None else f", {timedelta(seconds=round(left))} left"
        print(f"{reached}, {time.monotonic() - began:.0f} s{until}", file=sys.stderr, flush=True)

    def tick() -> None:
        while not ended.wait(seconds):
            if reached:
                say()

    def progress(step: str, done: int, total: int) -> None:
        nonlocal reached, pace
        begins = step != pace.step
        pace = Pace(step) if begins else pace
        pace.note(done, total)
        reached = f"{_numbered(step)}: {done:,} of {counted(total, 'part')}"
        if begins or done == total:
            say()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield progress
    finally:
        ended.set()
        ticking.join()


class Pace:
    """Of one step: how long it will still take if its parts go on as they did."""

    def __init__(self, step: str):
        self.step = step
        self._points: list[tuple[float, int]] = []
        self._total = 0

    def note(self, done: int, total: int) -> None:
        """So much is done now."""
        self._points = [*self._points[:1], (time.monotonic(), done)]
        self._total = total

    def left(self) -> float | None:
        """Seconds; None: nothing tells, or it has taken longer already."""
        if len(self._points) < 2 or self._points[1][1] == self._total:
            return None
        (began, first), (reached, done) = self._points
        each = (reached - began) / (done - first)
        left = each * (self._total - done) - (time.monotonic() - reached)
        return left if left > 0 else None


def _numbered(step: str) -> str:
    """The step, with its number among all."""
    return f"{STEPS.index(step.partition(',')[0]) + 1} of {len(STEPS)}, {step}"
