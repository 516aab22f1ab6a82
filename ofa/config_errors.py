"""What is wrong with a config, in one line: pydantic's problems come in, and go out with keys in dots, what was found,
and the nearest name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from ofa.sections.base import Section, nearest

LONGEST = 60
"""Characters of a value that an error shows."""


class ConfigError(ValueError):
    """A config that cannot be run, with the key, what was found and what would be right."""


def explain(kind: type[Section], problem: dict[str, Any]) -> str:
    """One line for one pydantic problem: the key in dots, what is wrong, the nearest name."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_known_ones(_section_at(kind, problem['loc'][:-1]), str(problem['loc'][-1]))}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message}, found {shortened(json.dumps(problem['input'], default=str))}{_percent(problem)}"


def concerned(overrides: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Of the `key=value` that were laid over a file, those that problems with these keys may come from."""
    wrong = [f"{key}." for key in keys]
    typed = [(f"{one.partition('=')[0]}.", one) for one in overrides]
    return [shortened(one) for key, one in typed if any(key.startswith(bad) or bad.startswith(key) for bad in wrong)]


def _known_ones(section: type[Section], word: str) -> str:
    """What was meant by a key that a section does not have; else what it has, and what it is for."""
    if word in section.ELSEWHERE:
        return f"; did you mean {section.ELSEWHERE[word]}?"
    known = nearest(word, list(section.model_fields))
    purpose = " ".join((section.__doc__ or "").split()).partition(". ")[0].removesuffix(".")
    return known if known.endswith("?") else f"{known} ({purpose})"


def _percent(problem: dict[str, Any]) -> str:
    """The fraction that was meant, where someone wrote a percentage."""
    value, limits = problem["input"], problem.get("ctx", {})
    if 1 not in (limits.get("lt"), limits.get("le")) or type(value) not in (int, float) or not 1 < value <= 100:
        return ""
    return f" ({value:g} % is {value / 100:g})"


def shortened(text: str) -> str:
    """A value as an error shows it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _section_at(kind: type[Section], location: tuple[Any, ...]) -> type[Section]:
    """The section that a pydantic location leads to; numbers in it count the elements of a list, and names are those of
    sections in an object."""
    parts = iter(location)
    for part in parts:
        if isinstance(part, str):
            annotation = kind.model_fields[part].annotation
            kind = next(_sections_in(annotation))
            if get_origin(annotation) is dict:
                next(parts, None)  # a name
    return kind


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Sections that an annotation names: itself, or inside `| None` and `list[...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
