"""What a sweep leaves: `results.jsonl`, `table.md`, `sweep.png`, and the table on the console.

They are made from the run folders alone, whole, each time a cell ends: nothing has to be kept in step with them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa.config import SweepConfig
from ofa.files import write_bytes, write_text
from ofa.sections.base import nearest
from ofa.sweep.cells import Cell
from ofa.sweep.figure import picture
from ofa.sweep.rows import result_rows, write_rows
from ofa.sweep.run import Outcome
from ofa.sweep.table import Group, console_table, groups, markdown_table, metric_names

PICTURE = "sweep.png"


def write_findings(config: SweepConfig, cells: Sequence[Cell], folder: Path, outcome: Outcome) -> None:
    """Write results.jsonl, table.md and, where a run is finished, sweep.png as the run folders are now."""
    rows = result_rows(cells)
    found = groups(config, cells, rows)
    write_rows(folder / "results.jsonl", rows)
    write_text(folder / "table.md", markdown_table(config, found, remarks(config, found, outcome)))
    if rows:
        write_bytes(folder / PICTURE, picture(config, found))
    else:
        (folder / PICTURE).unlink(missing_ok=True)  # of runs that were removed


def show(config: SweepConfig, cells: Sequence[Cell], folder: Path, outcome: Outcome) -> None:
    """Print the table, what is missing in it, and where the files are."""
    found = groups(config, cells, result_rows(cells))
    print("", console_table(config, found), "", *remarks(config, found, outcome), sep="\n")
    for name in ("results.jsonl", "table.md", PICTURE):
        print(folder / name if (folder / name).is_file() else f"no {name}: no run is finished")


def remarks(config: SweepConfig, found: Sequence[Group], outcome: Outcome) -> list[str]:
    """What is missing in the table, and why; and what its rows do not share beside what was varied."""
    known = metric_names(found, None)
    wrong = []
    if known and config.metric is not None and config.metric not in known:
        wrong = [f"no run has the metric {config.metric}{nearest(config.metric, known)}"]
    failed = [f"{name} failed: {why}" for name, why in outcome.failed.items()]
    stopped = [f"{name} is not finished: start the sweep again" for name in outcome.stopped]
    return [*wrong, *failed, *stopped, *_not_shared(found)]


def _not_shared(found: Sequence[Group]) -> list[str]:
    """Code, packages and machines that differ between rows: a difference between two rows may be theirs."""
    rows = [row for group in found for row in group.rows]
    notes = []
    for key, what in (("commit", "commits"), ("versions", "sets of versions"), ("hardware", "kinds of hardware")):
        counts = Counter(json.dumps(row[key], sort_keys=True) for row in rows if row.get(key)).most_common()
        if len(counts) > 1:
            words = _in_words([json.loads(value) for value, _ in counts])
            listed = ", ".join(f"{count} of {said}" for said, (_, count) in zip(words, counts, strict=True))
            notes.append(f"rows are of {len(counts)} {what}: {listed}")
    return notes


def _in_words(values: Sequence[Any]) -> list[str]:
    """First digits of commits; of packages and machines what differs."""
    if isinstance(values[0], str):
        return [str(value)[:9] for value in values]
    names = {name: None for value in values for name in value}
    differing = [name for name in names if len({str(value.get(name)) for value in values}) > 1]
    return [" ".join(f"{name} {value.get(name)}" for name in differing) for value in values]
