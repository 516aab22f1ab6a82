"""The runs of a sweep: its config comes in, a list of cells goes out, each after those that it needs.

A cell that uses another one's model names it in braces, `{dense}/model`, and is started after it. The alternative was a
list of stages with a grid each, which says twice what the stages share.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.config import CellConfig, SweepConfig
from ofa.run_folder import RunFolder
from ofa.sections.base import nearest
from ofa.sweep.axes import Point, SweepError, check_name, combinations, filled, flat, override, placeholders
from ofa.sweep.cells import Cell

RESERVED = ("config.json", "jobs", "lock", "results.jsonl", "sweep.png", "table.md")
"""Names in the sweep's folder that are no runs."""

LONGEST = 200
"""Characters of a run's name; file systems take 255."""


@dataclass(frozen=True)
class Place:
    """Where a run stands in the grid."""

    kind: CellConfig
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return "-".join(part for part in (self.kind.name, *(point.part for point in self.points)) if part)

    @property
    def at(self) -> dict[str, str]:
        """Labels by grid key."""
        return {point.axis: point.label for point in self.points}


def plan(sweep: SweepConfig, folder: Path) -> list[Cell]:
    """All runs of a sweep, in folders below the sweep's.

    Raises:
        SweepError: its cells and grid keys do not fit together.
    """
    kinds = sweep.cells or [CellConfig(name="")]
    _check_kinds(sweep)
    places = [Place(kind, points) for kind in kinds for points in combinations(_grid(sweep, kind))]
    _check_keys(sweep, places)
    _check_run_names(places)
    return _in_order([_cell(sweep, place, places, folder) for place in places])


def _grid(sweep: SweepConfig, kind: CellConfig) -> dict[str, list[Any]]:
    """The grid of one kind of run: its own keys win, in the sweep's order, and null takes one away."""
    return {axis: values for axis, values in (sweep.grid | kind.grid).items() if values is not None}


def _check_kinds(sweep: SweepConfig) -> None:
    if not sweep.cells and not sweep.grid:
        raise SweepError("the sweep has neither cells nor a grid: nothing would be run")
    names = [kind.name for kind in sweep.cells]
    for name in names:
        check_name(name, f"cell {name}")
        if names.count(name) > 1:
            raise SweepError(f"two cells are called {name}")
    for kind in sweep.cells:
        for name in kind.needs:
            if name not in names:
                raise SweepError(f"cell {kind.name} needs {name}, which is no cell{nearest(name, names)}")


def _check_keys(sweep: SweepConfig, places: Sequence[Place]) -> None:
    axes = sorted({axis for place in places for axis in place.at})
    for kind in sweep.cells:
        if kind.name in axes:
            raise SweepError(f"{kind.name} is the name of a cell and a grid key: placeholders could mean both")
    asked = [("over", axis) for axis in sweep.over if "over" in sweep.model_fields_set]
    for field, axis in [*asked, *([("panels", sweep.panels)] if sweep.panels else [])]:
        if axis not in axes:
            raise SweepError(f"{field}: {axis} is no grid key{nearest(axis, axes)}")
    if sweep.panels in sweep.over:
        raise SweepError(f"{sweep.panels} stands in over and in panels: what is averaged has no panel of its own")


def _check_run_names(places: Sequence[Place]) -> None:
    names = [place.name for place in places]
    for name in names:
        if names.count(name) > 1:
            raise SweepError(f"two runs would be called {name}: give cells or values of the grid other names")
        if name in RESERVED or len(name) > LONGEST:
            raise SweepError(
                f"a run would be called {name}: a name has at most {LONGEST} characters and is none of "
                f"{', '.join(RESERVED)}; give the cell or its values another one"
            )


def _cell(sweep: SweepConfig, place: Place, places: Sequence[Place], folder: Path) -> Cell:
    values = flat(sweep.set) | _own_values(place)
    kinds = {other.kind.name for other in places} - {""}
    named = placeholders(values)
    needed = {name: _matching(place, name, places) for name in sorted({*place.kind.needs, *(named & kinds)})}
    words = place.at | {name: str(folder / found[0].name) for name, found in needed.items() if len(found) == 1}
    for name in sorted(named - words.keys()):
        if name in needed:
            raise SweepError(
                f"cell {place.name}: {{{name}}} could be any of {', '.join(other.name for other in needed[name])}, "
                f"since {place.name} has not all of their grid keys"
            )
        known = sorted({*place.at, *kinds})
        raise SweepError(f"cell {place.name}: {{{name}}} is neither a grid key of it nor a cell{nearest(name, known)}")
    return Cell(
        name=place.name,
        kind=place.kind.name,
        at=place.at,
        script=sweep.script,
        config=place.kind.config or sweep.config,
        overrides=tuple(override(key, value) for key, value in filled(values, words).items()),
        needs=tuple(other.name for found in needed.values() for other in found),
        folder=RunFolder(folder / place.name),
    )


def _own_values(place: Place) -> dict[str, Any]:
    """What the cell and the grid set.

    Raises:
        SweepError: two of them set the same, so that one would not have its name's meaning.
    """
    values: dict[str, Any] = {}
    owners: dict[str, str] = {}
    sources = [(f"cell {place.kind.name}", flat(place.kind.set))]
    sources += [(f"grid key {point.axis}", point.values) for point in place.points]
    for source, own in sources:
        for key in own:
            for other, owner in owners.items():
                if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                    raise SweepError(f"{source} sets {key} and {owner} sets {other}: only one of them may")
        owners |= dict.fromkeys(own, source)
        values |= own
    return values


def _matching(place: Place, kind: str, places: Sequence[Place]) -> list[Place]:
    """Runs of another kind with this one's values of the grid keys that both have."""
    of_kind = [other for other in places if other.kind.name == kind]
    found = [other for other in of_kind if all(place.at[axis] == other.at[axis] for axis in place.at.keys() & other.at)]
    if not found:
        raise SweepError(f"cell {place.name} needs a run of {kind} with its values of the grid keys; there is none")
    return found


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Each cell after those that it needs, otherwise as given."""
    waiting: Mapping[str, tuple[str, ...]] = {cell.name: cell.needs for cell in cells}
    try:
        order = list(graphlib.TopologicalSorter(waiting).static_order())
    except graphlib.CycleError as error:
        raise SweepError(f"cells need each other: {' needs '.join(reversed(error.args[1]))}") from None
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[other] for other in waiting[name]), default=0)
    return sorted(cells, key=lambda cell: depth[cell.name])
