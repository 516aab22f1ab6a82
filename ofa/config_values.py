"""The values of a config before any section has seen them: JSON that says one thing, laid over a base, with single
values put in from the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

from ofa.config_errors import ConfigError
from ofa.sections.base import nearest

DEEPEST = 20
"""Levels of objects and lists in a config; the sections have five."""

LARGEST = 2**63 - 1
"""Largest whole number: what 64 bits hold."""


def decode(text: str) -> Any:
    """JSON that says one thing: a key given twice, a number without end or objects without end are refused.

    Raises:
        json.JSONDecodeError: it is not JSON.
        ValueError: it is, and is one of those.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)} is given twice")
        return values

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels of objects and lists") from None


def wild_values(value: Any, key: tuple[str, ...]) -> Iterator[str]:
    """What no section can take: NaN, infinities, whole numbers beyond 64 bits, objects without end."""
    if len(key) > DEEPEST:
        yield f"{'.'.join(key[:3])}...: more than {DEEPEST} levels of objects and lists"
    elif isinstance(value, dict | list):
        for inner, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from wild_values(one, (*key, str(inner)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{'.'.join(key)}: expected a finite number, found {value}"
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield f"{'.'.join(key)}: expected a whole number below 2^63, found one of {value.bit_length()} bits"


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Values over those of a base, section by section."""
    result = dict(below)
    for key, value in above.items():
        both_objects = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both_objects else value
    return result


def apply_override(
    values: dict[str, Any], override: str, dotted: Collection[str] = (), named: Collection[str] = ()
) -> None:
    """Put one `section.key=value` into values that are already read, in place.

    Args:
        values: of the config.
        override: as it is given to --set.
        dotted: sections whose own keys have dots: all that stands behind the section's name is one key.
        named: sections whose own keys are names that users give: null takes away one that is there.

    Raises:
        ConfigError: it has another form, leads into what is no section, or takes away what is not there.
    """
    key, sign, text = override.partition("=")
    if not sign or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = decode(text)
    except json.JSONDecodeError:
        value = text
    except ValueError as error:
        raise ConfigError(f"--set {override}: {error}") from None
    *parents, last = key.split(".")
    if parents and parents[0] in dotted:
        parents, last = parents[:1], key.partition(".")[2]
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
    if value is None and len(parents) == 1 and parents[0] in named and last not in values:
        raise ConfigError(f"--set {override}: there is no {last} to take away{nearest(last, list(values))}")
    values[last] = value
