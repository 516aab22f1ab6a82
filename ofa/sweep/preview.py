"""What a sweep would run, for people: cells come in, a line for each goes out, or its command line.

A cell's whole command has a dozen values that all cells share; what matters before a cluster is asked is what differs.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ofa.sweep.cells import Cell


def summary(cells: Sequence[Cell], folder: Path) -> str:
    """What all cells have in common, then a line for each with its name and what it alone has.

    Args:
        cells: of one sweep, at least one.
        folder: the sweep's.
    """
    common = set.intersection(*({_config(cell), *cell.overrides} for cell in cells))
    width = max(len(cell.name) for cell in cells)
    shared = [one for one in (_config(cells[0]), *cells[0].overrides) if one in common]
    number = "1 run" if len(cells) == 1 else f"{len(cells)} runs"
    head = f"{number} of launch/{cells[0].script}.py in {folder}"
    lines = [f"{cell.name:<{width}}  {_own(cell, common)}".rstrip() for cell in cells]
    return "\n".join([head, f"in common: {' '.join(shared) or 'nothing'}", *lines, "with -v: the whole commands"])


def commands(cells: Sequence[Cell]) -> str:
    """The command line of each cell that is not finished, in the order in which they are started."""
    return "\n".join(f"# {cell.name}: already done" if cell.is_done() else shlex.join(cell.command()) for cell in cells)


def missing_lines(missing: Mapping[str, Sequence[str]], runs: int) -> list[str]:
    """What has to be made before the sweep is started, each with the cells that need it; comments of a shell.

    Args:
        missing: as `missing_places` finds it.
        runs: of the sweep.
    """
    if not missing:
        return []
    lines = [f"# {problem} (needed by {_some(names, runs)})" for problem, names in missing.items()]
    return ["# not there yet, and refused when the sweep is started:", *lines]


def _some(names: Sequence[str], runs: int) -> str:
    if len(names) == runs:
        return "all"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _config(cell: Cell) -> str:
    return f"config={cell.config}"


def _own(cell: Cell, common: set[str]) -> str:
    """The values that not all cells share, what is awaited, and whether all is there."""
    own = [one for one in (_config(cell), *cell.overrides) if one not in common]
    after = [f"(after {', '.join(cell.needs)})"] if cell.needs else []
    return " ".join([*own, *(["(already done)"] if cell.is_done() else after)])
