"""The table of a sweep: rows of its runs come in; a line for each kind of run and grid value goes out, with mean and
sample deviation over what is averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from ofa.config import SweepConfig
from ofa.sweep.cells import Cell
from ofa.tables import markdown_rows, said_twice, table

PLUS_MINUS = "\u00b1"

LARGE = 10_000
"""From here on a number is shown without decimals: a count of weights."""

TASK = "task"
"""The grid key that says on what a run is scored."""

FLOOR = "floor:"
"""How names of reference rows begin that are no models but what models are held against."""


@dataclass
class Group:
    """Runs that are averaged."""

    kind: str
    at: dict[str, str]
    """The label of each grid key that is not averaged over."""

    planned: int = 0
    """Runs that there are to be."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    """Of those that are finished."""

    def values(self, metric: str) -> list[float]:
        """The metric's values, one a finished run that has it."""
        return [row["metrics"][metric] for row in self.rows if metric in row["metrics"]]

    def leading(self, metric: str | None) -> str | None:
        """The metric asked for; else the one that the runs name, else their first; None if none is finished."""
        found = [row.get("metric") or next(iter(row["metrics"]), None) for row in self.rows]
        return metric or next(iter(found), None)

    def label(self, *, without: str | None = None) -> str:
        """The kind and the grid's values on one line."""
        rest = [f"{axis.rpartition('.')[2]}={label}" for axis, label in self.at.items() if axis != without]
        return " ".join([part for part in (self.kind, *rest) if part])


def groups(sweep: SweepConfig, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The cells by kind and grid values, without what is averaged over, in the order of the cells."""
    of_cell = {row["cell"]: row for row in rows}
    found: dict[tuple[Any, ...], Group] = {}
    for cell in cells:
        at = {axis: label for axis, label in cell.at.items() if axis not in sweep.over}
        group = found.setdefault((cell.kind, *at.items()), Group(cell.kind, at))
        group.planned += 1
        group.rows += [of_cell[cell.name]] if cell.name in of_cell else []
    return list(found.values())


def floors(found: Sequence[Group]) -> list[Group]:
    """What any model beats that has learned something: a group for each of the floors that the runs name (one answer
    for all rows; the own model with its scope zero) and, where the grid has tasks, for each task; over all runs."""
    made: dict[tuple[Any, ...], Group] = {}
    for group in found:
        for row in group.rows:
            for name, metrics in (row.get("references") or {}).items():
                if name.startswith(FLOOR):
                    at = {axis: label for axis, label in group.at.items() if axis == TASK}
                    floor = made.setdefault((name, *at.items()), Group(name, at))
                    floor.planned += 1
                    floor.rows.append({"metrics": metrics})
    return sorted(made.values(), key=lambda floor: floor.kind)


def metric_names(found: Sequence[Group], metric: str | None) -> list[str]:
    """Names of all metrics: those that lead, then the others as they come."""
    leading = [group.leading(metric) for group in found]
    others = [name for group in found for row in group.rows for name in row["metrics"]]
    return list(dict.fromkeys(name for name in [*leading, *others] if name is not None))


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean and sample deviation (n - 1) as text; one value has no deviation, none is a dash."""
    if not values:
        return "-"
    form = ",.0f" if max(values) >= LARGE else ".4f"
    mean = f"{fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} {PLUS_MINUS} {stdev(values):{form}}"


def lines(found: Sequence[Group], metric: str | None) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table."""
    axes = list(dict.fromkeys(axis for group in found for axis in group.at))
    twice = said_twice([row["metrics"] for group in found for row in group.rows]) - {metric}
    names = [name for name in metric_names(found, metric) if name not in twice]
    head = ["cell", *axes, "n", *names]
    shown = [*found, *floors(found)]
    body = [
        [
            group.kind or "-",
            *(group.at.get(axis, "-") for axis in axes),
            str(len(group.rows)) if len(group.rows) == group.planned else f"{len(group.rows)} of {group.planned}",
            *(mean_and_deviation(group.values(name)) for name in names),
        ]
        for group in shown
    ]
    if not any(group.kind for group in shown):
        head, body = head[1:], [line[1:] for line in body]
    return head, body


def console_table(sweep: SweepConfig, found: Sequence[Group]) -> str:
    """The table as text."""
    head, body = lines(found, sweep.metric)
    return "\n".join([table(head, body), "", _caption(sweep)])


def markdown_table(sweep: SweepConfig, found: Sequence[Group], remarks: Sequence[str]) -> str:
    """The table as Markdown, and remarks below it."""
    head, body = lines(found, sweep.metric)
    below = "".join(f"- {remark}\n" for remark in remarks)
    return "\n".join([markdown_rows(head, body), "", _caption(sweep), ""]) + (f"\n{below}" if below else "")


def _caption(sweep: SweepConfig) -> str:
    over = " and ".join(sweep.over) or "nothing"
    return (
        f"Mean {PLUS_MINUS} sample deviation over {over}, of a floor over all runs of its task; n is the number of "
        "finished runs."
    )
