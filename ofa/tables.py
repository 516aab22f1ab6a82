"""Plain-text tables for the console: a run's result and a verification.

Comes in: `result.json` or a verification as data. Goes out: text without colour or box drawing, so that a log file and
a terminal show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCORE_COLUMNS = (
    ("validation loss", "validation_loss", "{:.4f}"),
    ("masked accuracy", "masked_accuracy", "{:.2%}"),
)
"""Heading, key of a row of result.json, format."""

SPARSITY_COLUMNS = (
    ("encoder zeros", "encoder_sparsity", "{:.4%}"),
    ("scope zeros", "scope_sparsity", "{:.4%}"),
    ("model zeros", "model_sparsity", "{:.4%}"),
)

RESULT_COLUMNS = (*SCORE_COLUMNS, *SPARSITY_COLUMNS)

STRUCTURE_COLUMNS = (
    ("structure gone", "structural_sparsity", "{:.2%}"),
    ("cost gone", "cost_sparsity", "{:.2%}"),
    ("encoder weights", "encoder_weights", "{:,}"),
)
"""Of models whose units were pruned."""

SAME = 1e-9
"""Two shares that differ by less are one, reckoned in two ways."""

RESULT_PLACES = (("model", "model"), ("report", "report"), ("tensorboard", "event files"))
"""Key of result.json, what it is called."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(_padded(line, widths) for line in [lines[0], rule, *lines[1:]])


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same in Markdown."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rules, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def result_table(result: Mapping[str, Any]) -> str:
    """The final table of a run: one row a model, then the rate and where things are."""
    columns = result_columns(result)
    head = ["", *(heading for heading, _, _ in columns)]
    parts = [table(head, [result_cells(row, columns) for row in result["rows"]]), ""]
    if result.get("tokens_per_second"):
        parts.append(f"{result['tokens_per_second']:,.0f} tokens per second over {result.get('steps', 0):,} steps")
    parts += [f"{label}: {result[key]}" for key, label in RESULT_PLACES if result.get(key)]
    return "\n".join(parts)


Columns = Sequence[tuple[str, str, str]]
"""Heading, key of a row, format; of each column."""


def result_columns(result: Mapping[str, Any]) -> Columns:
    """Columns of a result: those of pre-training, or of a task the metrics that its rows have; where units were pruned,
    none of zeros that no row has."""
    found = {key for row in result["rows"] for key in row} - said_twice(result["rows"])
    structural = [column for column in STRUCTURE_COLUMNS if column[1] in found]
    known = {name: {row[name] for row in result["rows"] if name in row} for _, name, _ in SPARSITY_COLUMNS}
    zeros = [column for column in SPARSITY_COLUMNS if not structural or known[column[1]] != {0.0}]
    if "metrics" not in result:
        return (*SCORE_COLUMNS, *zeros, *structural)
    names = [name for metric in result["metrics"] for name in sorted(found) if name.split("_mismatched")[0] == metric]
    scores = [(name.replace("_", " "), name, "{:.4f}") for name in names]
    return [("validation loss", "validation_loss", "{:.4f}"), *scores, *zeros, *structural]


def said_twice(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The key of the cost that is gone, where that is the weights in every row: one column says it then."""
    pairs = [(row["cost_sparsity"], row.get("structural_sparsity", -1.0)) for row in rows if "cost_sparsity" in row]
    return {"cost_sparsity"} if all(abs(cost - weights) < SAME for cost, weights in pairs) else set()


def result_cells(row: Mapping[str, Any], columns: Columns = RESULT_COLUMNS) -> list[str]:
    """One row of `result["rows"]` as text; a value that it does not have is a dash."""
    cells = [row["name"]]
    for _, key, form in columns:
        value = row.get(key)
        cells.append("-" if value is None else form.format(value))
    return cells


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([first, *others]).rstrip()
