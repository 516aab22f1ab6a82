"""Templates of the German and the French Wikipedia that stand inside of sentences, as far as none of the English one
has their name and shows something else."""

from __future__ import annotations

import re
from collections.abc import Callable

from data_prep.wiki.measures import Arguments

_ADJECTIVES = {
    "en": "englisch", "fr": "französisch", "la": "lateinisch", "grc": "griechisch", "it": "italienisch",
    "es": "spanisch", "ru": "russisch", "ar": "arabisch", "he": "hebräisch", "pl": "polnisch", "nl": "niederländisch",
    "pt": "portugiesisch", "tr": "türkisch", "cs": "tschechisch", "sv": "schwedisch", "da": "dänisch",
}  # fmt: skip
"""Of German templates `enS`: `{{enS|house}}` is `englisch house`."""

_CENTURY = re.compile(r"[ivx]+e(?:r)? siècle(?: av\. j\.-c\.)?")
_ORDINAL = re.compile(r"(?:[ivx]{2,}|\d+)(?:er|re|e|ère|ème|nd|nde)|ier")
_SUFFIXES = frozenset(("er", "re", "nd", "nde", "ère"))


def _first(given: Arguments) -> str:
    return given[0][0].strip() if given[0] else ""


def _second(given: Arguments) -> str:
    return given[0][1].strip() if len(given[0]) > 1 else ""


def _spaced(given: Arguments) -> str:
    return " ".join(filter(None, (value.strip() for value in given[0])))


def _century(given: Arguments) -> str:
    number = _first(given)
    return f"{number}{'er' if number.upper() == 'I' else 'e'} siècle" if number else ""


def _before(word: str) -> Callable[[Arguments], str]:
    return lambda given: f"{word} {_first(given)}" if _first(given) else ""


RULES: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(("unité", "nombre", "nb", "date", "date-", "dates", "heure", "unidad"), _spaced),
    **dict.fromkeys(("langue", "langue-", "lien-langue"), _second),
    **dict.fromkeys(
        ("petit", "exp", "ind", "nobr romains", "abréviation", "abréviation discrète", "abd", "terme défini",
         "citation étrangère", "citation bloc", "romain", "nombre romain", "m.", "mme", "\""),
        _first,
    ),
    **{f"{code}s": _before(word) for code, word in _ADJECTIVES.items()},
    **dict.fromkeys(("s", "s-"), _century),
    "av jc": lambda _: "av. J.-C.",
    "n°": _before("no"),
    "höhe": lambda given: f"{_first(given)} m" if _first(given) else "",
}  # fmt: skip
"""By the template's name in small letters."""


def shown_name(name: str) -> str | None:
    """What a template shows that is called as it: `{{XIXe siècle}}`, `{{1er}}`, `{{er}}`; None for all others.

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
