"""The report of a structurally pruned model: what is left of it, and how it came to that, in words and pictures.

As `ofa.report_figures`: numbers in, SVG images out; and a run's config and stages in, sentences out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ofa.models.structure import DIMS, HEADS
from ofa.report_figures import BLUE, GREEN, ORANGE, STYLE, WIDTH, Line, Marks, draw, legend_above, mark, svg

SEARCH_KEYS = {
    "expected_sparsity",
    "structural_sparsity",
    "cost_sparsity",
    "lagrangian",
    "lambda_1",
    "lambda_2",
    "hidden",
}
"""Keys of metrics lines that are of the search alone."""


def is_of_structure(key: str) -> bool:
    """Whether a key of a metrics line says something of the structure, and is no loss term and no score."""
    return key in SEARCH_KEYS or key.startswith((HEADS, DIMS, "match."))


COSTS = {
    "params": "its weights are gone",
    "nnz": "its weights are gone or zero",
    "macs": "its multiply-adds are gone",
    "latency": "its sublayers' measured time is gone",
}
"""What the target of a structure is a share of, by the config's value."""


def in_words(config: dict[str, Any], data: str) -> str:
    """One sentence on a run that prunes units while it learns `data`."""
    asked, init = config["structure"], config["model"]["init"] or "a fresh model"
    what = "CoFi" if asked["method"] == "gates" else "Structured magnitude pruning"
    teacher = f", with the teacher {config['teacher']['init']}" if config.get("teacher") else ""
    zeros = "every zero of the base kept" if config["lock"] else "all weights trained"
    gone = f"until {100 * asked['sparsity']:g} % of {COSTS[asked['cost']]}"
    return f"{what} of {init} on {data}, {gone}{teacher}; {zeros}."


def stages_in_words(stages: dict[str, int]) -> str:
    """The steps at which a structural run has changed."""
    begin, ramp_end, pruned, total = (f"{stages[name]:,}" for name in ("begin", "ramp_end", "pruned", "total"))
    return (
        f" The dense model learned up to step {begin}; from there units were pruned, towards a target that had risen to"
        f" its full height at step {ramp_end}; the small model took over at step {pruned} and learned up to {total}."
    )


def stage_marks(config: dict[str, Any], result: dict[str, Any] | None) -> dict[str, int]:
    """Steps at which a structural run changes, by what people call the change: those of its result, or of a config that
    counts in steps; what epochs come to is not known before. None for other runs."""
    asked, found = config.get("structure") or {}, (result or {}).get("stages")
    if found is None and "begin_steps" in asked:
        ramp_end = asked["begin_steps"] + asked["ramp_steps"]
        found = {"begin": asked["begin_steps"], "ramp_end": ramp_end, "pruned": config["schedule"]["total_steps"]}
    names = {"begin": "pruning begins", "ramp_end": "full target", "pruned": "small model"}
    return {name: found[key] for key, name in names.items()} if found else {}


def units(kept: Mapping[str, Any]) -> str:
    """Which heads of each layer are left, and how many intermediate dimensions.

    Args:
        kept: a run's structure.json: `heads` and `intermediate`, the units that live, layer by layer, and `of`, how
            many a layer of the dense model has.
    """
    layers, heads, dims = len(kept["heads"]), kept["of"]["heads"], kept["of"]["intermediate"]
    grid = np.zeros((layers, heads))
    for layer, living in enumerate(kept["heads"]):
        grid[layer, living] = 1.0
    widths = [len(living) for living in kept["intermediate"]]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 1.5 + 0.3 * layers), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        left.imshow(grid, aspect="auto", cmap=ListedColormap(["#e5e7eb", BLUE]), vmin=0.0, vmax=1.0)
        left.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        left.set_xticks(np.arange(0.5, heads), minor=True)
        left.set_yticks(np.arange(0.5, layers), minor=True)
        left.grid(which="minor", color="white", linewidth=2.0)
        left.tick_params(which="minor", length=0)
        left.set_yticks(range(layers), [f"layer {layer + 1}" for layer in range(layers)])
        left.set_xlabel("head")
        left.set_title(f"attention heads: {int(grid.sum())} of {grid.size} are left", fontsize=10)
        right.barh(range(layers), [dims] * layers, color="#e5e7eb", height=0.7)
        right.barh(range(layers), widths, color=ORANGE, height=0.7)
        for layer, width in enumerate(widths):
            right.text(width + 0.01 * dims, layer, f"{width:,}" if width else "gone", va="center", fontsize=9)
        right.set_xlim(0, dims)
        right.set_title(f"intermediate dimensions: {sum(widths):,} of {layers * dims:,} are left", fontsize=10)
        return svg(figure)


def search(lines: Sequence[Line], marks: Marks) -> str:
    """Target, expected and hard sparsity by step, and the two multipliers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        draw(above, lines, "expected_sparsity", color=BLUE, label="expected of the gates")
        validated = [line for line in lines if "validation_loss" in line]
        draw(above, validated, "cost_sparsity", color=ORANGE, label="of the hard structure", marker="o")
        draw(above, lines, "target_sparsity", color="#111827", label="target", linestyle=":")
        above.set_ylabel("share of the cost that is gone")
        above.yaxis.set_major_formatter(PercentFormatter(1.0))
        legend_above(above)
        _multipliers(below, lines)
        mark([above, below], marks)
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure)


def _multipliers(panel: Axes, lines: Sequence[Line]) -> None:
    draw(panel, lines, "lambda_1", color=BLUE, label="$\\lambda_1$")
    draw(panel, lines, "lambda_2", color=GREEN, label="$\\lambda_2$")
    panel.set_ylabel("multipliers")
    if panel.lines:
        legend_above(panel)
    else:
        panel.text(0.5, 0.5, "no multipliers: units went by magnitude", ha="center", transform=panel.transAxes)
