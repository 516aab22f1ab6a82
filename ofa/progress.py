"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere, and log.txt."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LOG = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal."""


class Progress:
    """Shows a run's metrics lines; does nothing on other ranks than 0."""

    def __init__(self, total_steps: int, *, active: bool):
        self._total = total_steps
        self._active = active and total_steps > 0
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._last_line = 0.0

    def start(self, step: int, name: str) -> None:
        """Begin at `step`."""
        if not self._active:
            return
        LOG.info("%s: step %d of %d", name, step, self._total)
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
            self._bar = Bar(*columns, *times, console=self._console)
            self._bar.start()
            self._bar.add_task(name, total=self._total, completed=step, numbers="")

    def show(self, line: dict[str, Any]) -> None:
        """A metrics line of the training loop."""
        if not self._active:
            return
        numbers = f"loss {line['loss']:.3f}  lr {line['lr']:.2e}  {line['tokens_per_second']:,.0f} tokens/s"
        gone = line.get("expected_sparsity", line.get("cost_sparsity"))
        if gone is not None:
            numbers += f"  structure {gone:.1%} gone, target {line['target_sparsity']:.1%}"
        elif line["sparsity"] > 0:
            numbers += f"  sparsity {line['sparsity']:.1%}"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=line["step"] + 1, numbers=numbers)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            LOG.info("step %d/%d  %s", line["step"], self._total, numbers)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def start_logging(log_file: Path | None, *, active: bool) -> None:
    """Send the library's messages to the terminal and to `log_file`, if there is one yet, on rank 0; other ranks keep
    their warnings."""
    root = logging.getLogger("ofa")
    stop_logging()
    root.propagate = False
    logging.raiseExceptions = False  # a full disk ends the run with an error of its own, not with logging's
    if not active:
        root.setLevel(logging.WARNING)
        root.addHandler(logging.StreamHandler(sys.stderr))
        return
    root.setLevel(logging.DEBUG)
    to_terminal = _terminal_handler()
    to_terminal.setLevel(logging.INFO)
    root.addHandler(to_terminal)
    if log_file is None:
        return
    to_file = logging.FileHandler(log_file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(to_file)


def _terminal_handler() -> logging.Handler:
    """rich, which does not write through a running bar, on a terminal; unwrapped lines elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        return RichHandler(console=console, show_path=False, show_time=False, show_level=False)
    return logging.StreamHandler(sys.stderr)


def stop_logging() -> None:
    """Close what `start_logging` opened."""
    root = logging.getLogger("ofa")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
