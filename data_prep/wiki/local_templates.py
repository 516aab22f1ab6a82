"""Templates of the German and the French Wikipedia that stand inside of sentences, as far as none of the English one
has their name and shows something else."""

from __future__ import annotations

import re
from collections.abc import Callable

from data_prep.wiki.measures import Arguments

_ADJECTIVES = {
    "en": "englisch", "fr": "franz\u00f6sisch", "la": "lateinisch", "grc": "griechisch", "it": "italienisch",
    "es": "spanisch", "ru": "russisch", "ar": "arabisch", "he": "hebr\u00e4isch", "pl": "polnisch",
    "nl": "niederl\u00e4ndisch", "pt": "portugiesisch", "tr": "t\u00fcrkisch", "cs": "tschechisch",
    "sv": "schwedisch", "da": "d\u00e4nisch",
}  # fmt: skip
"""Of German templates `enS`: `{{enS|house}}` is `englisch house`."""

_CENTURY = re.compile(r"[ivx]+e(?:r)? si\u00e8cle(?: av\. j\.-c\.)?")
_ORDINAL = re.compile(r"(?:[ivx]{2,}|\d+)(?:er|re|e|\u00e8re|\u00e8me|nd|nde)|ier")
_SUFFIXES = frozenset(("er", "re", "nd", "nde", "\u00e8re"))


def _first(given: Arguments) -> str:
    return given[0][0].strip() if given[0] else ""


def _second(given: Arguments) -> str:
    return given[0][1].strip() if len(given[0]) > 1 else ""


def _spaced(given: Arguments) -> str:
    return " ".join(filter(None, (value.strip() for value in given[0])))


def _century(given: Arguments) -> str:
    number = _first(given)
    return f"{number}{'er' if number.upper() == 'I' else 'e'} si\u00e8cle" if number else ""


def _before(word: str) -> Callable[[Arguments], str]:
    return lambda given: f"{word} {_first(given)}" if _first(given) else ""


RULES: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(("unit\u00e9", "nombre", "nb", "date", "date-", "dates", "heure", "unidad"), _spaced),
    **dict.fromkeys(("langue", "langue-", "lien-langue"), _second),
    **dict.fromkeys(
        ("petit", "exp", "ind", "nobr romains", "abr\u00e9viation", "abr\u00e9viation discr\u00e8te", "abd",
         "terme d\u00e9fini", "citation \u00e9trang\u00e8re", "citation bloc", "romain", "nombre romain", "m.",
         "mme", "\""),
        _first,
    ),
    **{f"{code}s": _before(word) for code, word in _ADJECTIVES.items()},
    **dict.fromkeys(("s", "s-"), _century),
    "av jc": lambda _: "av. J.-C.",
    "n\u00b0": _before("no"),
    "h\u00f6he": lambda given: f"{_first(given)} m" if _first(given) else "",
}  # fmt: skip
"""By the template's name in small letters."""


def shown_name(name: str) -> str | None:
    """What a template shows that is called as it: `{{XIXe si\u00e8cle}}`, `{{1er}}`, `{{er}}`; None for all others.

    Args:
        name: In small letters.
    """
    if _CENTURY.fullmatch(name):
        number, rest = name.split("e", 1)
        return f"{number.upper()}e{rest.replace('j.-c.', 'J.-C.')}"
    if name in _SUFFIXES:
        return name
    match = _ORDINAL.fullmatch(name)
    return None if match is None else re.sub(r"^[ivx]+", lambda roman: roman.group().upper(), name)
