"""What the runs of a sweep found: their folders come in, one row a finished run goes out, in `results.jsonl`.

A run that writes `results.jsonl` says itself what its metrics are, and which leads. A pre-training run has its own row
last in `result.json`, after the models that it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa.files import write_text
from ofa.run_files import RunFolderError, read_json
from ofa.sweep.cells import Cell

SPARSITIES = ("encoder_sparsity", "scope_sparsity", "model_sparsity")
"""Keys of a row that the table shows beside its metrics."""


def result_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row of each finished run, in the order of the cells.

    Returns:
        Objects with `cell` (the run's name), `kind`, `at` (label by grid key), `metrics` (number by name, sparsities
        and what a pruned model's structure comes to among them), `metric` (the leading one, or None), and what else the
        run says of itself.

    Raises:
        RunFolderError: a result is damaged.
    """
    return [{"cell": cell.name, "kind": cell.kind, "at": cell.at, **_found(cell)} for cell in cells if cell.is_done()]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _found(cell: Cell) -> dict[str, Any]:
    own = cell.folder.path / "results.jsonl"
    row = _last_line(own) if own.is_file() else _last_row(cell)
    numbers = {
        **row.pop("metrics"),
        **{key: row.pop(key) for key in SPARSITIES if key in row},
        **row.pop("structure", {}),
    }
    return {**row, "metric": row.get("metric"), "metrics": numbers}


def _last_line(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        if all(map(_is_number, row["metrics"].values())):
            return row
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        pass
    raise RunFolderError(
        f"{path} is damaged: its last line is no JSON object with numbers as metrics; remove the run and repeat it"
    )


def _last_row(cell: Cell) -> dict[str, Any]:
    result = read_json(cell.folder.result)
    rows = result.get("rows")
    if not isinstance(rows, list) or not rows or not isinstance(rows[-1], dict):
        raise RunFolderError(f"{cell.folder.result} is damaged: it has no rows; remove the run and repeat it")
    numbers = {key: value for key, value in rows[-1].items() if _is_number(value)}
    return {"name": rows[-1].get("name"), "metrics": numbers, "steps": result.get("steps")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
