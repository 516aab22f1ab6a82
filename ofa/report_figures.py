"""The report's pictures: numbers in, SVG images out.

Each function takes plain lists of metrics lines or tensors and gives a `data:` URI, so that the page needs no other
file. Equal numbers give equal bytes. JavaScript charts were left aside: they need a library inside or outside the page.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from ofa.export.count import TensorCount

Line = Mapping[str, Any]

BLUE, ORANGE, GREEN = "#2a6f97", "#d1495b", "#3a7d44"
WIDTH = 10.0
"""Inches of every picture; the page scales them to its own width."""
SMOOTHED_ABOVE = 100
"""Points from which a running mean is drawn over the raw line."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sparse-ofa",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#6b7280",
    "legend.frameon": False,
}


Marks = Mapping[str, int]
"""Steps at which a run has changed, by what people call the change."""


def curves(lines: Sequence[Line], marks: Marks) -> str:
    """Loss, learning rate and sparsity in three panels over one step axis."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
        _loss(panels[0], lines)
        _learning_rate(panels[1], lines)
        _sparsity(panels[2], lines)
        mark(panels, marks)
        panels[2].set_xlabel("step")
        panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure)


def task_curves(
    lines: Sequence[Line], metrics: Sequence[str], marks: Marks, *, exported: int | None, pruned: bool, sparse: bool
) -> str:
    """Validation score, loss, learning rate and, of a sparse model, sparsity in panels over one step axis.

    Args:
        lines: of metrics.
        metrics: keys of validation lines; the first picks the exported step.
        marks: of the run.
        exported: that step, which is marked; None: the run has not ended.
        pruned: the run makes zeros, towards a target.
        sparse: it makes or keeps zeros.
    """
    heights = [2, 2, 1, 1] if sparse else [2, 2, 1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 + 1.6 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _scores(panels[0], lines, metrics)
        _task_loss(panels[1], lines)
        _learning_rate(panels[2], lines)
        if sparse:
            _sparsity(panels[3], lines, with_target=pruned)
        mark(panels, marks)
        if exported is not None:
            for panel in panels:
                panel.axvline(exported, color="#111827", linewidth=1.0, linestyle="--")
            _name_line(panels[0], exported, f"exported: step {exported:,}", lines)
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure)


def loss_terms(lines: Sequence[Line], names: Sequence[str], marks: Marks) -> str:
    """Each loss term in its own small panel."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6 * math.ceil(len(names) / 3)), layout="constrained")
        panels = figure.subplots(math.ceil(len(names) / 3), min(3, len(names)), squeeze=False).flatten()
        for panel, name in zip(panels, names, strict=False):
            draw(panel, lines, name, color=BLUE, smooth=True)
            mark([panel], marks, height=None)
            panel.set_title(name, fontsize=10)
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        return svg(figure)


def churn(lines: Sequence[Line]) -> str:
    """Weights dropped (upwards) and revived (downwards) at each mask refresh, on a log scale."""
    refreshes = [line for line in lines if line.get("dropped") or line.get("revived")]
    steps = [line["step"] for line in refreshes]
    gap = min((b - a for a, b in zip(steps, steps[1:], strict=False) if b > a), default=1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        panel = figure.subplots()
        panel.bar(steps, [line["dropped"] for line in refreshes], width=0.8 * gap, color=ORANGE, label="dropped")
        panel.bar(steps, [-line["revived"] for line in refreshes], width=0.8 * gap, color=GREEN, label="revived")
        panel.axhline(0, color="#374151", linewidth=0.8)
        panel.set_yscale("symlog", linthresh=10)
        panel.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        panel.set_xlabel("step")
        panel.set_ylabel("weights")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(panel)
        return svg(figure)


def throughput(lines: Sequence[Line], marks: Marks) -> str:
    """Tokens per second at each training line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
        panel = figure.subplots()
        draw(panel, lines, "tokens_per_second", color=BLUE)
        mark([panel], marks, height=0.3)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step")
        panel.set_ylabel("tokens per second")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure)


def tensor_sparsity(counts: Mapping[str, TensorCount]) -> str:
    """Sparsity of every scoped tensor: one row a kind of Linear, one column a layer."""
    kinds: dict[str, dict[int, float]] = {}
    for name, found in counts.items():
        layer = re.search(r"\.(\d+)\.", name)
        kind = re.sub(r"^.*\.\d+\.", "", name).removesuffix(".weight") + ("" if layer else " (not in a layer)")
        kinds.setdefault(kind, {})[int(layer[1]) if layer else 0] = found.sparsity
    layers = 1 + max(max(row) for row in kinds.values())
    grid = np.array([[row.get(layer, math.nan) for layer in range(layers)] for row in kinds.values()])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(kinds)), layout="constrained")
        panel = figure.subplots()
        image = panel.imshow(grid, aspect="auto", cmap="YlGnBu", vmin=0.0, vmax=1.0)
        for (row, column), value in np.ndenumerate(grid):
            if not math.isnan(value):
                color = "white" if value > 0.55 else "black"
                digits = 3 if layers <= 8 else 1
                text = f"{100 * value:.{digits}f}"
                panel.text(column, row, text, ha="center", va="center", color=color, fontsize=9 if layers <= 14 else 6)
        panel.set_yticks(range(len(kinds)), list(kinds))
        panel.set_xticks(range(layers), [str(layer + 1) for layer in range(layers)])
        panel.set_xlabel("layer, from 1 (numbers in the cells: % zeros)")
        figure.colorbar(image, format=PercentFormatter(1.0), pad=0.01)
        return svg(figure)


def weight_histograms(weights: Mapping[str, Tensor]) -> str:
    """Weights that are not zero, of a few tensors; the magnitude below which weights were dropped is marked."""
    with matplotlib.rc_context(STYLE):
        rows = math.ceil(len(weights) / 2)
        figure = Figure(figsize=(WIDTH, 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, min(2, len(weights)), squeeze=False).flatten()
        for panel, (name, weight) in zip(panels, weights.items(), strict=False):
            _histogram(panel, name, weight.float().flatten().numpy())
        for panel in panels[len(weights) :]:
            panel.set_axis_off()
        return svg(figure)


def _histogram(panel: Axes, name: str, values: np.ndarray) -> None:
    alive = values[values != 0]
    panel.set_title(name.removesuffix(".weight"), fontsize=9)
    panel.set_ylabel("weights")
    if not alive.size:
        panel.text(0.5, 0.5, "all weights are zero", ha="center", transform=panel.transAxes)
        return
    edge = float(np.quantile(np.abs(alive), 0.9995))
    panel.hist(np.clip(alive, -edge, edge), bins=81, range=(-edge, edge), color=BLUE)
    zeros = values.size - alive.size
    if zeros:
        threshold = float(np.abs(alive).min())
        for sign in (-1, 1):
            panel.axvline(sign * threshold, color=ORANGE, linewidth=1.2, linestyle="--")
        text = f"{zeros / values.size:.2%} are zero\nthreshold {threshold:.3g}"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
        place = {"ha": "center", "va": "top", "transform": panel.transAxes}
        panel.text(0.5, 0.95, text, color=ORANGE, bbox=box, fontsize=9, **place)


def _loss(panel: Axes, lines: Sequence[Line]) -> None:
    # The masked-LM term, not the weighted sum: validation has no other, and the two share an axis.
    draw(panel, lines, "masked_lm", color=BLUE, label="training", smooth=True)
    draw(panel, lines, "validation_loss", color=ORANGE, label="validation", marker="o")
    panel.set_ylabel("masked LM (nats)")
    shown = [line[key] for line in lines for key in ("masked_lm", "validation_loss") if _is_number(line.get(key))]
    _fit_to_most(panel, shown)
    legend_above(panel)


def _scores(panel: Axes, lines: Sequence[Line], metrics: Sequence[str]) -> None:
    for name, color in zip(metrics, (ORANGE, BLUE, GREEN), strict=False):
        draw(panel, lines, name, color=color, label=name.replace("_", " "), marker="o")
    panel.set_ylabel("validation score")
    if panel.lines:
        legend_above(panel)
    else:
        panel.text(0.5, 0.5, "no validation yet", ha="center", va="center", transform=panel.transAxes)


def _task_loss(panel: Axes, lines: Sequence[Line]) -> None:
    # The label loss, not the weighted sum: validation has no other, and the two share an axis.
    draw(panel, lines, "label_loss", color=BLUE, label="training", smooth=True)
    draw(panel, lines, "validation_loss", color=ORANGE, label="validation", marker="o")
    panel.set_ylabel("label loss")
    _fit_to_most(
        panel, [line[k] for line in lines for k in ("label_loss", "validation_loss") if _is_number(line.get(k))]
    )
    if panel.lines:
        legend_above(panel)


def _learning_rate(panel: Axes, lines: Sequence[Line]) -> None:
    draw(panel, lines, "lr", color=BLUE)
    panel.set_ylabel("learning rate")
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _name_line(panel: Axes, step: int, text: str, lines: Sequence[Line]) -> None:
    """Words at the foot of a vertical line, on the side where they stay inside the panel."""
    late = step > max(line["step"] for line in lines) / 2
    shift, side = (-4, "right") if late else (4, "left")
    panel.annotate(
        text, (step, 0.04), xycoords=("data", "axes fraction"), xytext=(shift, 0), textcoords="offset points", ha=side
    )


def mark(panels: Sequence[Axes], marks: Marks, *, height: float | None = 0.5) -> None:
    """Thin vertical lines at a run's changes through all panels; their names along them in the first, their middle at
    a share of its height, or nowhere."""
    for name, step in marks.items():
        for panel in panels:
            panel.axvline(step, color="#6b7280", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.5)
        if height is not None:
            place = {"xycoords": ("data", "axes fraction"), "xytext": (2, 0), "textcoords": "offset points"}
            panels[0].annotate(name, (step, height), **place, rotation=90, va="center", fontsize=8, color="#4b5563")


def _sparsity(panel: Axes, lines: Sequence[Line], *, with_target: bool = True) -> None:
    draw(panel, lines, "scope_sparsity", color=ORANGE, label="scope", drawstyle="steps-post")
    if with_target:
        draw(panel, lines, "target_sparsity", color="#111827", label="target", linestyle=":")
    draw(panel, lines, "model_sparsity", color=GREEN, label="whole model", drawstyle="steps-post")
    panel.set_ylim(-0.02, 1.02)
    panel.set_ylabel("sparsity")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.lines:
        legend_above(panel)
    else:
        panel.text(0.5, 0.5, "no pruning in this run", ha="center", va="center", transform=panel.transAxes)


def draw(panel: Axes, lines: Sequence[Line], key: str, *, color: str, smooth: bool = False, **style: Any) -> None:
    """One metrics key over the steps that have it; values that are no numbers leave a gap."""
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), (int, float))]
    if not points:
        return
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    values[~np.isfinite(values)] = np.nan
    if not smooth or len(points) < SMOOTHED_ABOVE:
        panel.plot(steps, values, color=color, linewidth=1.4, markersize=3.5, **style)
        return
    panel.plot(steps, values, color=color, linewidth=0.6, alpha=0.3)
    panel.plot(steps, _running_mean(values, len(points) // 50), color=color, linewidth=1.6, **style)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and its neighbours, at the ends of fewer."""
    kernel = np.ones(2 * (window // 2) + 1)
    filled = np.nan_to_num(values)
    weights = np.convolve(np.isfinite(values).astype(float), kernel, mode="same")
    return np.convolve(filled, kernel, mode="same") / np.maximum(weights, 1.0)


def _fit_to_most(panel: Axes, values: Iterable[float]) -> None:
    """Cut a first peak off the top, so that the rest of the curve can be read."""
    ordered = sorted(values)
    if len(ordered) < 20:
        return
    top = ordered[int(0.98 * (len(ordered) - 1))]
    bottom, highest = panel.get_ylim()
    if highest > top + 0.5 * (top - ordered[0]):
        panel.set_ylim(bottom, top + 0.3 * (top - ordered[0]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def legend_above(panel: Axes) -> None:
    """A legend over the panel's upper right corner."""
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=4, fontsize=9)


def svg(figure: Figure) -> str:
    """A drawn figure as a `data:` URI."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue().encode()).decode()
