"""The table of runs: folders come in; text, JSON, or a table that is drawn anew goes out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ofa.cluster.attempts import BESIDE_LOG
from ofa.cluster.find import Place, runs_below
from ofa.cluster.job_rows import job_row, submitted_last
from ofa.cluster.layout import ELLIPSIS, fitted
from ofa.cluster.queue import QueuedJob, has_slurm, whoever
from ofa.cluster.row import Row, State
from ofa.cluster.status import jobs_to_ask_for, row, sweep_row
from ofa.slurm.commands import SlurmError

COLOURS = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.GIVEN_UP: "red",
    State.FAILED: "red",
    State.KILLED: "red",
    State.UNREADABLE: "red",
    State.STOPPED: "yellow",
    State.UNFINISHED: "yellow",
}

CUT = f"{ELLIPSIS} stands for what does not fit here: it is in --json, or in a pipe such as | less -S"

HEADINGS = ("run", "state", "attempts", "step", "sparsity", "loss", "tokens/s", "ETA", "last error")

OF_RUNS = len(HEADINGS) - 4
"""Columns that mean nothing for a job without a run folder: those from `step` to `ETA`."""


def status_rows(folders: Sequence[Path]) -> tuple[list[Row], str | None]:
    """The rows of all runs in some folders and below, and of jobs without a run folder; a sweep below a folder has one
    row, one that is named itself has rows of its runs too.

    Returns:
        The rows, and what is wrong with Slurm's queue if it cannot be read.

    Raises:
        ValueError: a folder is not there.
    """
    places = _places(folders)
    jobs, trouble = _jobs(places)
    rows: list[Row] = []
    for folder in folders:
        rows += _rows_below(folder, places, jobs)
    return list({one.run: one for one in rows}.values()), trouble


def drawn_table(rows: Sequence[Row], trouble: str | None = None, width: int | None = None) -> Group:
    """For a console: the table, and below it how many runs are in which state.

    Args:
        rows: of the runs.
        trouble: with Slurm's queue.
        width: of a terminal, that the table must fit into.
    """
    cells = [_cells(one) for one in rows]
    lines, is_whole = fitted(HEADINGS, cells, [COLOURS.get(one.state, "") for one in rows], width)
    below = [_counts(rows), *([] if is_whole else [CUT]), *([trouble] if trouble else [])]
    return Group(*lines, "", *map(Text, below))


def print_once(folders: Sequence[Path], *, as_json: bool) -> None:
    """Print the table.

    Raises:
        ValueError: a folder is not there.
    """
    rows, trouble = status_rows(folders)
    if as_json:
        print(json.dumps([one.as_json() for one in rows], indent=1))
        if trouble:
            print(f"note: {trouble}", file=sys.stderr)
        return
    to = Console(highlight=False)
    if to.is_terminal:
        to.print(drawn_table(rows, trouble, to.width))
    else:
        print(*drawn_table(rows, trouble).renderables, sep="\n", flush=True)


def watch(folders: Sequence[Path], *, every: float) -> None:
    """Draw the table anew every so many seconds, until Ctrl-C; without a terminal, one below the other.

    Raises:
        ValueError: a folder is not there.
    """
    to = Console(highlight=False)
    if not to.is_terminal:
        while True:
            print_once(folders, as_json=False)
            time.sleep(every)
    with Live(console=to, auto_refresh=False) as live:
        while True:
            live.update(drawn_table(*status_rows(folders), to.width), refresh=True)
            time.sleep(every)


def _places(folders: Iterable[Path]) -> dict[Path, Place]:
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: name run folders, or folders with runs below them")
        found |= {place.path: place for place in runs_below(folder)}
    return found


def _jobs(places: dict[Path, Place]) -> tuple[dict[str, QueuedJob] | None, str | None]:
    """What has the numbers of all places' jobs in the queue, in one question; None: nobody can be asked."""
    if not has_slurm():
        return None, None
    asked: set[str] = set()
    for place in places.values():
        with contextlib.suppress(OSError, ValueError):  # its own row will tell
            asked |= {one.job for one in jobs_to_ask_for(place) if not one.is_local}
    try:
        return whoever(asked), None
    except SlurmError as error:
        return None, f"without Slurm's queue: {error}"


def _rows_below(folder: Path, places: dict[Path, Place], there: dict[str, QueuedJob] | None) -> list[Row]:
    """Rows of what lies in a folder, in the order of `places`."""
    jobs = there or {}
    newest = submitted_last(place for place in places.values() if place.is_job)
    of_sweeps = {path: [] for path, place in places.items() if place.is_sweep}
    rows: list[Row] = []
    for path, place in places.items():
        if not path.is_relative_to(folder):
            continue
        if place.is_job:
            rows += [job_row(place, there)] if path in newest else []
            continue
        if place.is_sweep:
            rows.append(Row(str(path), State.NEVER_STARTED, is_sweep=True))
            continue
        own = row(place, jobs)
        if path.parent in of_sweeps:
            of_sweeps[path.parent].append(own)
        if path.parent not in of_sweeps or path.parent == folder:
            rows.append(own)
    return [
        sweep_row(places[Path(one.run)], of_sweeps[Path(one.run)], jobs) if one.is_sweep else one for one in rows
    ]


def _cells(one: Row) -> list[str]:
    state = _state(one)
    attempts = _or_dash(one.attempts, "{}")
    if one.command is not None:
        name = f"job {Path(one.run).name.removesuffix(BESIDE_LOG)}: {one.command}"
        return [name, state, attempts, *[""] * OF_RUNS, one.error or ""]
    unit = " cells" if one.is_sweep else ""
    done = "-" if one.step is None else f"{one.step:,}"
    return [
        one.run,
        state,
        attempts,
        f"{done}/{one.total:,}{unit}" if one.total is not None else done,
        _or_dash(one.sparsity, "{:.1%}"),
        one.loss if isinstance(one.loss, str) else _or_dash(one.loss, "{:.3f}"),
        _or_dash(one.tokens_per_second, "{:,.0f}"),
        "-" if one.eta is None else _duration(one.eta),
        one.error or "",
    ]


def _state(one: Row) -> str:
    """`pending (job 17): Priority`, `running (process 4242)`; of a job without a run folder its name has the number."""
    number = f" (job {one.job})" if one.job and one.command is None else ""
    number = number or (f" (process {one.process})" if one.process is not None else "")
    return f"{one.state}{number}" + (f": {one.waits_for}" if one.waits_for else "")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _duration(seconds: float) -> str:
    """`3d 04h`, `4h 05m`, `5m 06s`."""
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller:02}{name}"
    return f"{whole}s"


def _counts(rows: Sequence[Row]) -> str:
    """`12 runs and 1 other job: 3 running, 10 finished`"""
    counted = {state: sum(one.state == state for one in rows) for state in State}
    parts = ", ".join(f"{number} {state}" for state, number in counted.items() if number)
    of_jobs = sum(one.command is not None for one in rows)
    runs = len(rows) - of_jobs
    counts = f"{runs} run{'s' * (runs != 1)}" + (f" and {of_jobs} other job{'s' * (of_jobs > 1)}" if of_jobs else "")
    return f"{counts}{': ' if rows else ''}{parts}"
