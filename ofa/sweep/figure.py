"""The picture of a sweep: grouped rows come in, `sweep.png` goes out.

A panel for each task, in it a line for each kind of run and grid value: a point a run, and mean and sample deviation
beside it. Lines lie flat, because their names are long. Bars that begin at 0 would hide what differs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ofa.config import SweepConfig
from ofa.report_figures import BLUE, ORANGE, STYLE
from ofa.sweep.table import TASK, Group

COLUMNS = 3
"""Panels side by side."""

PANEL, LINE, FRAME = 3.6, 0.34, 1.1
"""Inches: width of a panel, height of one of its lines, height of what is around them."""


def picture(sweep: SweepConfig, found: Sequence[Group]) -> bytes:
    """The PNG file; groups without a finished run have an empty line."""
    axis = panel_axis(sweep, found)
    panels: dict[str, list[Group]] = {}
    for group in found:
        panels.setdefault(group.at.get(axis, "") if axis else "", []).append(group)
    labels = list(dict.fromkeys(group.label(without=axis) for group in found))
    places = {label: number for number, label in enumerate(labels)}
    columns = min(COLUMNS, len(panels))
    count = math.ceil(len(panels) / columns)
    width = PANEL * columns + 0.085 * max(map(len, labels)) + 0.4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(width, 5.5), count * (LINE * len(labels) + FRAME) + 0.3), layout="constrained")
        drawn = figure.subplots(count, columns, squeeze=False, sharey=True).flatten()
        for panel, (title, of_panel) in zip(drawn, panels.items(), strict=False):
            _draw(panel, of_panel, places, sweep.metric, axis)
            panel.set_title(title, fontsize=11)
        for panel in drawn[len(panels) :]:
            panel.set_axis_off()
        drawn[0].set_yticks(range(len(labels)), labels)
        drawn[0].set_ylim(len(labels) - 0.5, -0.5)
        handles, names = drawn[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower right", ncols=2, fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def panel_axis(sweep: SweepConfig, found: Sequence[Group]) -> str | None:
    """The grid key whose values have a panel each."""
    return sweep.panels or (TASK if any(TASK in group.at for group in found) else None)


def _draw(
    panel: Axes, of_panel: Sequence[Group], places: Mapping[str, int], metric: str | None, axis: str | None
) -> None:
    name = next((leading for group in of_panel if (leading := group.leading(metric))), None)
    points, means = [], []
    for group in of_panel if name else ():
        values, place = group.values(str(name)), places[group.label(without=axis)]
        points += [(value, place) for value in values]
        if values:
            means.append((fmean(values), place + 0.24, stdev(values) if len(values) > 1 else 0.0))
    panel.plot(*_columns(points, 2), "o", color=BLUE, alpha=0.65, markersize=5, label="one run")
    x, y, deviation = _columns(means, 3)
    panel.errorbar(x, y, xerr=deviation, fmt="D", color=ORANGE, markersize=4, capsize=3, label="mean, sample deviation")
    panel.set_xlabel((name or "no run is finished").replace("_", " "))
    panel.xaxis.set_major_locator(MaxNLocator(4) if points else NullLocator())
    panel.margins(x=0.08)


def _columns(rows: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    return [[row[number] for row in rows] for number in range(count)]
