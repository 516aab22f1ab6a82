"""What a step benchmark found: ratios, rows and counted overheads from rates and counts, and one table of them.

In: real tokens per second of each step in each round, counts of each step. Out: the parts of the benchmark's JSON, and
its text. The predictions beside the ratios are a cost model's for BERT-base on an H100; a CPU's are the counted FLOPs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.made_by import in_words
from benchmarks.step_counts import Counts
from ofa.tables import table
from ofa.timing import ratios

SPEEDUPS = {
    "speedup_over_reference": ("all", "reference", 4.4),
    "speedup_over_reference_full_rows": ("all", "reference_full_rows", 2.2),
    "speedup_same_objective": ("all_same_objective", "reference", None),
    "speedup_same_objective_full_rows": ("all_same_objective", "reference_full_rows", 1.7),
    "speedup_plain": ("plain_all", "plain_reference", 3.7),
    "speedup_plain_full_rows": ("plain_all", "plain_reference_full_rows", 1.9),
}
"""Key in the result: faster step, slower step, the ratio predicted for BERT-base on an H100 from a cost model (its
padded rows were half full). `same_objective` distils at all real positions, as the reference does; `plain` trains
without teacher and masks."""


HEAD = ("step", "tokens/s", "ratio", "10-90 %", "FLOPs alone", "MFLOP/token", "mask B/weight", "logit kB/token")
"""`ratio` is over the reference, of steps without a teacher over theirs; `FLOPs alone` is the ratio that counted FLOPs
would give."""


def speedups(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The ratios by name, and under `quantiles` how they spread over the rounds."""
    found = {key: ratios(rates[fast], rates[slow]) for key, (fast, slow, _) in SPEEDUPS.items()}
    if "all_deepspeed" in rates:
        found["speedup_over_reference_deepspeed"] = ratios(rates["all_deepspeed"], rates["reference"])
    return {**{key: ratio["median"] for key, ratio in found.items()}, "quantiles": found}


def rows_of(rates: Mapping[str, Sequence[float]], counts: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """One row a step: its rate, the ratio to its reference, the ratio that counted FLOPs alone would give, its
    counts."""
    rows = []
    for name, measured in rates.items():
        base = "plain_reference" if name.startswith("plain") else "reference"
        row = {"name": name, "tokens_per_second": statistics.median(measured), "over": base}
        row["ratio"] = ratios(measured, rates[base])
        if name in counts:
            row |= {"flops_ratio": counts[base].flops / counts[name].flops, **asdict(counts[name])}
        rows.append(row)
    return rows


def overheads(counts: Mapping[str, Counts]) -> dict[str, dict[str, float]]:
    """Of masking and of distillation, counted: the reference's and ours."""
    found = {}
    for whose, step, plain in (("reference", "reference", "plain_reference"), ("ours", "all", "plain_all")):
        with_both, without = counts[step], counts[plain]
        found[whose] = {
            "masking_operations": with_both.masking_operations,
            "masking_bytes_per_weight": with_both.masking_bytes,
            "kd_flops_over_plain": with_both.flops / without.flops - 1,
            "kd_vocabulary_bytes_per_token": with_both.vocabulary_bytes - without.vocabulary_bytes,
        }
    return found


def report(found: Mapping[str, Any]) -> str:
    """One table, and the ratios that have a prediction beside it."""
    lines = [table(HEAD, map(_cells, found["rows"])), ""]
    for key, (fast, slow, predicted) in SPEEDUPS.items():
        model = f"; H100 model {predicted}" if predicted else ""
        lines.append(f"{key:34}{found[key]:6.2f}   {fast} / {slow}{model}")
    for whose, of_masks_and_kd in found["overheads"].items():
        masks, flops, logits = (
            of_masks_and_kd[key]
            for key in ("masking_bytes_per_weight", "kd_flops_over_plain", "kd_vocabulary_bytes_per_token")
        )
        lines.append(
            f"{whose}: masks move {masks:.0f} B a weight, distillation adds {flops:.0%} FLOPs and "
            f"{logits / 1e3:,.0f} kB of logits a token"
        )
    lines += [f"{key:34}{found[key]:,.1f}" for key in found if key.startswith(("loader", "collator"))]
    settings, text = found["settings"], found["text"]
    lines.append(
        f"L{settings['layers']}-H{settings['hidden']}, {settings['vocab']:,} words, {settings['precision']}; "
        f"{text['source']}, padded rows {text['fill_of_padded_rows']:.0%} full; medians of {settings['pairs']} rounds; "
        f"losses of one objective within {found['largest_relative_loss_difference']:.1g}"
    )
    lines.append(in_words(found))
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    ratio = row["ratio"]
    cells = [row["name"], f"{row['tokens_per_second']:,.0f}", f"{ratio['median']:.2f}"]
    cells.append(f"{ratio['p10']:.2f}-{ratio['p90']:.2f}")
    if "flops" not in row:
        return [*cells, "", "", "", ""]
    sizes = (f"{row['flops'] / 1e6:,.1f}", f"{row['masking_bytes']:.0f}", f"{row['vocabulary_bytes'] / 1e3:,.0f}")
    return [*cells, f"{row['flops_ratio']:.2f}", *sizes]
