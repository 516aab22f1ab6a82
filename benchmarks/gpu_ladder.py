"""The step benchmark at full size: what each improvement is worth on a device, and how near it comes to the ceiling.

In: settings and a model size. Out: tokens per second of every step of `step.py`, its ratio to the reference, and its
share of the rate of a large matrix product (counted operations of what the step does, padding included). Each number of
tokens runs in a process of its own, so that one that does not fit the memory leaves the others.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.gpu_common import Found, Settings, python
from ofa.flops import measure_peak_flops

SHAPES = {"base": ("12", "768"), "large": ("24", "1024")}
"""Layers and hidden size."""

ROWS = {"base": (32, 64), "large": (32,)}
"""Rows of 512 tokens in a step: 16 and 32 thousand tokens."""

ROUNDS = {"base": 15, "large": 11}

CRITERIA = {
    "speedup_plain": 2.5,
    "speedup_plain_full_rows": 1.6,
    "speedup_over_reference": 3.0,
    "speedup_same_objective_full_rows": 1.5,
}
"""What is wanted at least on a GPU (PERF-16 and 17); reported, not judged."""


def measure(settings: Settings, *, size: str) -> Found:
    """Run the step benchmark for each number of tokens."""
    # The ceiling before the steps, in this process, which then holds next to no memory.
    peak = measure_peak_flops(settings.device, settings.dtype)
    layers, hidden = SHAPES[size]
    rows: list[list[str]] = []
    found: dict[str, Any] = {"ceiling_flops": peak, "steps": {}}
    notes: list[str] = []
    right = True
    for number in ROWS[size][:1] if settings.quick else ROWS[size]:
        arguments = ["--json", "--device", settings.device, "--precision", settings.precision, "--data", "synthetic"]
        if settings.quick:
            arguments += ["--quick"]
        else:
            arguments += ["--layers", layers, "--hidden", hidden, "--sequence", "512", "--rows", str(number)]
            arguments += ["--vocab", "30522", "--pairs", str(ROUNDS[size])]
        try:
            one = json.loads(python("benchmarks/step.py", *arguments, cwd=settings.place))
        except RuntimeError as error:
            right = False
            notes.append(f"{number} rows: {str(error)[-500:]}")
            continue
        found["steps"][str(number)] = one
        rows += [[f"{number} rows: {row['name']}", *cells(row, peak)] for row in one["rows"]]
        ratios = (f"{name} {one[name]:.2f} (wanted {least})" for name, least in CRITERIA.items())
        notes.append(f"{number} rows: {', '.join(ratios)}")
    head = ["step", "tokens/s", "over reference", "10-90 %", "of ceiling"]
    notes.append(f"ceiling {peak / 1e12:,.1f} TFLOP/s in {settings.precision}")
    return Found(head, rows, found, right, notes)


def cells(row: dict[str, Any], peak: float) -> list[str]:
    """Rate, ratio with its spread, and share of the ceiling of one step."""
    ratio = row["ratio"]
    share = f"{row['tokens_per_second'] * row['flops'] / peak:.1%}" if "flops" in row else ""
    rate = f"{row['tokens_per_second']:,.0f}"
    return [rate, f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}-{ratio['p90']:.2f}", share]
