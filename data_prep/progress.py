"""How far a preparation is, on the standard error: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

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
    columns = (TextColumn("{task.description:<17}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console) as bars:
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
    reached = ""

    def say() -> None:
        print(f"{reached}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def tick() -> None:
        while not ended.wait(seconds):
            if reached:
                say()

    def progress(step: str, done: int, total: int) -> None:
        nonlocal reached
        reached = f"{_numbered(step)}: {done} of {total}"
        if not 0 < done < total:
            say()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield progress
    finally:
        ended.set()
        ticking.join()


def _numbered(step: str) -> str:
    """The step, with its number among all."""
    return f"{STEPS.index(step.partition(',')[0]) + 1} of {len(STEPS)}, {step}"
