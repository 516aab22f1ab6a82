"""The picture: score over speed, a panel for each size; a model has one colour, a runtime one mark.

Up and to the right is better. Names stand in a legend: beside the points they would hide each other.
"""

from __future__ import annotations

import io
import math

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ofa.benchmark.measure import size_in_words
from ofa.benchmark.models import runtime_name
from ofa.benchmark.report import Benchmark
from ofa.inference import RUNTIMES
from ofa.report_figures import STYLE
from ofa.timing import percentiles

COLUMNS = 3
"""Panels side by side."""

PANEL = (3.7, 3.2)
"""Inches of one."""

WIDE = 5
"""Times that the fastest is faster than the slowest from which 1, 2 and 5 give ticks enough."""

MARKS = dict(zip(RUNTIMES, "osD^v", strict=False))


def picture(found: Benchmark) -> bytes | None:
    """The PNG file; None without scores."""
    if found.scores.metric is None:
        return None
    sizes = found.measured.sizes()
    columns = min(COLUMNS, len(sizes))
    count = math.ceil(len(sizes) / columns)
    names = list(dict.fromkeys(model.place.name for model in found.measured.models))
    palette = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    colors = {name: palette(number % palette.N) for number, name in enumerate(names)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(max(PANEL[0] * columns, 6.0), PANEL[1] * count + 0.8), layout="constrained", facecolor="white"
        )
        drawn = figure.subplots(count, columns, squeeze=False, sharey=True).flatten()
        for panel, size in zip(drawn, sizes, strict=False):
            _draw(panel, found, size, colors)
        for panel in drawn[len(sizes) :]:
            panel.set_axis_off()
        for row in range(count):
            drawn[row * columns].set_ylabel(found.scores.metric.replace("_", " "))
        models = [Patch(color=color, label=name) for name, color in colors.items()]
        figure.legend(handles=models, loc="outside lower left", ncols=4, fontsize=9)
        figure.legend(handles=_marks(found), loc="outside upper right", ncols=3, fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def _draw(panel: Axes, found: Benchmark, size: tuple[int, int, int], colors: dict[str, tuple]) -> None:
    beside = found.measured.at(size)
    rates = {key: 1e3 * times.batch / percentiles(times.seconds)["p50"] for key, times in beside.items()}
    for key, rate in rates.items():
        score = found.scores.leading(key)
        assert score is not None
        panel.plot(rate, score, MARKS[key[1]], color=colors[key[0]], markersize=8, alpha=0.85)
    panel.set_xscale("log")
    wide = max(rates.values()) > WIDE * min(rates.values())
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(0.12)
    panel.set_xlabel("rows per second (median)")
    panel.set_title(size_in_words(*size), fontsize=10)


def _marks(found: Benchmark) -> list[Line2D]:
    used = [one for one in MARKS if any(model.place.runtime == one for model in found.measured.models)]
    plain = {"linestyle": "none", "markersize": 7, "color": "#6b7280"}
    return [Line2D([], [], marker=MARKS[one], label=runtime_name(one), **plain) for one in used]
