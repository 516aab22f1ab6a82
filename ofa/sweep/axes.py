"""A sweep's grid: keys and values come in, points with a label go out, and texts whose placeholders are filled.

A value that is no object belongs to the config key that the grid key names; an object with `name` and `set` sets
several keys under one name. The road not taken is a little language of expressions over keys: it would need reading,
and a list of named values says the same.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ofa.config import NamedValuesConfig, parse

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
"""What cells, and values that have a name, may be called: it becomes part of a folder's name."""

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


class SweepError(ValueError):
    """A sweep that cannot be run: what was found, where, and what would be right."""


@dataclass(frozen=True)
class Point:
    """One value of one grid key."""

    axis: str
    """The grid key."""

    label: str
    """The value as the table shows it and a placeholder gives it."""

    part: str
    """Its part of the run's name."""

    values: dict[str, Any]
    """What it sets, by dotted key."""


def combinations(grid: Mapping[str, list[Any]]) -> Iterator[tuple[Point, ...]]:
    """The cartesian product of a grid, the last key fastest; one empty combination if there is no key.

    Raises:
        SweepError: a key without values, with a value twice, or with one that is neither plain nor named.
    """
    short = {axis: _shortest(axis, grid) for axis in grid}
    return itertools.product(*[_points(axis, values, short[axis]) for axis, values in grid.items()])


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted key; an object is taken apart, since it changes its own keys alone, as in a config's base."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {above + key: value}
    return found


def override(key: str, value: Any) -> str:
    """`key=value` as `--set` reads it: text as it is, unless it would be read as JSON."""
    text = json.dumps(value)
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            text = value
    return f"{key}={text}"


def placeholders(value: Any) -> set[str]:
    """Names in braces in the texts of a value."""
    if isinstance(value, dict | list):
        return set().union(*map(placeholders, value.values() if isinstance(value, dict) else value))
    return (
        {found[1] for found in PLACEHOLDER.finditer(value) if found[1] is not None} if isinstance(value, str) else set()
    )


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """The value with `{name}` in its texts replaced; `{{` and `}}` are braces."""
    if isinstance(value, dict):
        return {key: filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, words) for inner in value]
    if not isinstance(value, str):
        return value
    return PLACEHOLDER.sub(lambda found: found[0][0] if found[1] is None else words[found[1]], value)


def _points(axis: str, values: list[Any], short: str) -> list[Point]:
    if not values:
        raise SweepError(f"grid key {axis} has no values: give it some, or leave it out")
    points = [_point(axis, value, short, number) for number, value in enumerate(values)]
    labels = [point.label for point in points]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise SweepError(f"grid key {axis} has the value {twice} twice")
    return points


def _point(axis: str, value: Any, short: str, number: int) -> Point:
    if isinstance(value, list):
        raise SweepError(
            f"grid key {axis}: value {number} is a list; to set a list, give it a name: "
            f'{{"name": "...", "set": {{"{axis}": [...]}}}}'
        )
    if isinstance(value, dict):
        named = parse(NamedValuesConfig, value, origin=f"grid key {axis}, value {number}")
        check_name(named.name, f"grid key {axis}, value {number}")
        return Point(axis, named.name, named.name, flat(named.set))
    label = value if isinstance(value, str) else json.dumps(value)
    return Point(axis, label, f"{short}={re.sub(r'[^A-Za-z0-9._+=-]', '_', label)}", {axis: value})


def check_name(name: str, where: str) -> None:
    """Refuse a name that could not be part of a folder's.

    Raises:
        SweepError: it is one.
    """
    if not NAME.fullmatch(name):
        raise SweepError(
            f"{where}: a name has letters, digits and ._+=- and begins with a letter or digit, found {name!r}"
        )


def _shortest(axis: str, grid: Mapping[str, list[Any]]) -> str:
    """The last part of a dotted key, unless another ends with it too."""
    last = axis.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in grid) == 1 else axis
