"""The table of filters: which documents are dropped for what they are. All are off unless the config asks.

A filter looks at a cleaned text and the value of its key in `clean`; a new one is one line here and one key there.
`data_prep.languages` knows languages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from data_prep.languages import is_in_language
from ofa.config import CleanConfig

_WORD = re.compile(r"\w+")
_NO_SYMBOL = re.compile(r"[\w\s.,;:!?'\"()\[\]/%&\u2013\u2014\u2018\u2019\u201c\u201d\u2026-]+")


class Filter(NamedTuple):
    """One reason to drop a document."""

    reason: str
    """Name of the count."""
    value: Callable[[CleanConfig], Any]
    """The key of `clean`; nothing is dropped where it is null or 0."""
    drops: Callable[[str, Any], bool]
    """Of a cleaned text and the key's value."""


def repeats(text: str) -> float:
    """Share of a text's lines that have stood in it before; blank ones count for nothing."""
    lines = [line for line in text.split("\n") if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def words(text: str) -> int:
    """Runs of letters and digits."""
    return sum(1 for _ in _WORD.finditer(text))


def symbol_share(text: str) -> float:
    """Share of characters that are no letters, digits, space or marks of prose."""
    return len(_NO_SYMBOL.sub("", text)) / len(text) if text else 0.0


FILTERS = (
    Filter("dropped_short", lambda clean: clean.min_characters, lambda text, least: len(text) < least),
    Filter("dropped_long", lambda clean: clean.max_characters, lambda text, most: len(text) > most),
    Filter("dropped_few_words", lambda clean: clean.min_words, lambda text, least: words(text) < least),
    Filter("dropped_repetitive", lambda clean: clean.max_repeated_lines, lambda text, most: repeats(text) > most),
    Filter("dropped_symbols", lambda clean: clean.max_symbol_share, lambda text, most: symbol_share(text) > most),
    Filter("dropped_language", lambda clean: clean.language, lambda text, wanted: not is_in_language(text, wanted)),
)
"""In this order; the first that drops a document counts it."""


def reason_to_drop(text: str, config: CleanConfig) -> str | None:
    """The first filter's reason that drops a text that is not empty; None if none does."""
    for one in FILTERS:
        value = one.value(config)
        if value and one.drops(text, value):
            return one.reason
    return None
