"""Templates of the German and the French Wikipedia that stand inside of sentences; in dumps of another language the
same names mean something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from data_prep.wiki.measures import Arguments

Rule = Callable[[Arguments], str | None]
"""What a template shows; None if that is nothing, "" if its values cannot be read."""

_ADJECTIVES = {
    "en": "englisch", "fr": "franz\u00f6sisch", "la": "lateinisch", "grc": "griechisch", "it": "italienisch",
    "es": "spanisch", "ru": "russisch", "ar": "arabisch", "he": "hebr\u00e4isch", "pl": "polnisch",
    "nl": "niederl\u00e4ndisch", "pt": "portugiesisch", "tr": "t\u00fcrkisch", "cs": "tschechisch",
    "sv": "schwedisch", "da": "d\u00e4nisch",
}  # fmt: skip
"""Of German templates `enS`: `{{enS|house}}` is `englisch house`."""

_SEA_LEVELS = {"DE-NN": "NN", "DE-NHN": "NHN", "DE-HN": "HN", "AT": "A.", "CH": "M."}
"""By what a German height is measured."""

_MONTHS = (
    "janvier", "f\u00e9vrier", "mars", "avril", "mai", "juin", "juillet", "ao\u00fbt", "septembre", "octobre",
    "novembre", "d\u00e9cembre",
)  # fmt: skip
_DATE = re.compile(rf"(?:(?:(\d\d?|1er) )?({'|'.join(_MONTHS)}|\d\d?)(?: |$))?(\d{{3,4}})?")
_ROMAN = re.compile(r"[IVX]+")
_NUMBER = re.compile(r"([-+\u2212]?)(\d+)(?:[.,](\d+))?")
_SUPERSCRIPTS = str.maketrans("0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b")
_SHOWN = re.compile(
    r"(?:I(?:er|re)|[VX]e|[IVX]{2,}e) si\u00e8cle(?: av\. J\.-C\.)?"
    r"|(?:[IVX]{2,}|\d+)(?:er|re|e|\u00e8re|\u00e8me|nd|nde)|Ier|Ire|er|re|nd|nde|\u00e8re"
)
"""Names of French templates that show their names."""


def rule(name: str, language: str) -> Rule | None:
    """What a template shows that only wikis of one language have.

    Args:
        name: With single spaces and in its letters, as `XIXe si\u00e8cle` is one and `VIE` another.
        language: Of the wiki, `de`.
    """
    found = _RULES.get(language, {}).get(name[:1].lower() + name[1:])
    if found is None and language == "fr" and _SHOWN.fullmatch(name):
        return lambda _: name
    return found


def _value(values: Sequence[str], number: int) -> str:
    return values[number].strip() if len(values) > number else ""


def _first(given: Arguments) -> str:
    return _value(given[0], 0)


def _before(word: str) -> Rule:
    return lambda given: f"{word} {_first(given)}".strip()


# ---- German ---------------------------------------------------------------------------------------------------------


def _foreign_word(adjective: str) -> Rule:
    return lambda given: f"{adjective} {_first(given)}" if len(given[0]) == 1 and _first(given) else ""


def _height(given: Arguments) -> str:
    """`120|DE-NHN` -> `120 m u. NHN`, with an umlaut."""
    if not _first(given):
        return ""
    level = _SEA_LEVELS.get(_value(given[0], 1))
    return f"{_first(given)} m" + (f" \u00fc. {level}" if level else "")


def _quotation(given: Arguments) -> str:
    return _first(given) or given[1].get("text", "").strip()


# ---- French ---------------------------------------------------------------------------------------------------------


def _century(end: str = "") -> Rule:
    """`XIX|e` -> `XIXe siecle`, with its accent."""

    def shown(given: Arguments) -> str:
        number = _first(given)
        ordinal = _value(given[0], 1) or ("er" if number == "I" else "e")
        is_known = _ROMAN.fullmatch(number) is not None and ordinal in ("e", "er")
        return f"{number}{ordinal} si\u00e8cle{end}" if is_known else ""

    return shown


def _date(given: Arguments) -> str:
    """`12|mai|1990|en football` or `12 mai 1990|en football` -> `12 mai 1990`."""
    values = [value.strip() for value in given[0]]
    values = values[0].split() if values and " " in values[0] else values
    for count in (3, 2, 1):
        match = _DATE.fullmatch(" ".join(filter(None, values[:count])))
        if match is None or not match[0]:
            continue
        day, month, year = match.groups()
        if month and month.isdigit():
            if not day or not 1 <= int(month) <= 12:
                return ""
            month = _MONTHS[int(month) - 1]
        return " ".join(filter(None, ("1er" if day in ("1", "01") else day, month, year)))
    return ""


def _time(given: Arguments) -> str:
    """`12|30` -> `12 h 30`."""
    values = [value.strip() for value in given[0]]
    is_known = 1 <= len(values) <= 2 and all(value.isdigit() for value in values)
    return " ".join((values[0], "h", *values[1:])) if is_known else ""


def _quantity(given: Arguments) -> str:
    """`100000|km|2` -> `100 000 km` squared: a number, then units, each before its power."""
    number = _NUMBER.fullmatch(re.sub(r"(?<=\d)[ \u00a0\u202f](?=\d{3})", "", _first(given)))
    values = [value.strip() for value in given[0][1:]]
    powers = values[1::2]
    if number is None or given[1] or not all(re.fullmatch(r"[-\u2212]?\d*", power) for power in powers):
        return ""
    shown = number[1] + f"{int(number[2]):,}".replace(",", " ") + (f",{number[3]}" if number[3] else "")
    powers = [power.replace("\u2212", "-").translate(_SUPERSCRIPTS) for power in powers]
    units = [unit + power for unit, power in zip(values[::2], [*powers, ""], strict=False) if unit]
    return " ".join(filter(None, (shown, "\u22c5".join(units))))


def _in_language(given: Arguments) -> str:
    return _value(given[0], 1) or given[1].get("texte", "").strip()


def _quoted(given: Arguments) -> str:
    return f"\u00ab {_first(given)} \u00bb" if _first(given) else ""


def _questioned(given: Arguments) -> str | None:
    """A passage that somebody complains of, or a complaint alone."""
    return _first(given) or None


_QUESTIONED = (
    "refnec", "r\u00e9f. n\u00e9cessaire", "r\u00e9f\u00e9rence n\u00e9cessaire", "refsou", "quand", "qui", "pourquoi",
    "lequel", "pas clair", "v\u00e9rification n\u00e9cessaire", "interpr\u00e9tation personnelle",
)  # fmt: skip

_RULES: dict[str, dict[str, Rule]] = {
    "de": {
        **{f"{code}S": _foreign_word(word) for code, word in _ADJECTIVES.items()},
        "h\u00f6he": _height,
        "zitat": _quotation,
    },
    "fr": {
        **dict.fromkeys(("unit\u00e9", "nombre", "nb"), _quantity),
        **dict.fromkeys(("date", "date-"), _date),
        **dict.fromkeys(("s", "s-"), _century()),
        **dict.fromkeys(("-s", "-s-"), _century(" av. J.-C.")),
        **dict.fromkeys(("petit", "exp", "ind", "abr\u00e9viation", "abr\u00e9viation discr\u00e8te", "abd"), _first),
        **dict.fromkeys(("terme d\u00e9fini", "citation bloc"), _first),
        **dict.fromkeys(("\"", "citation"), _quoted),
        **dict.fromkeys(_QUESTIONED, _questioned),
        "heure": _time,
        "langue": _in_language,
        "m.": _before("M."),
        "mme": _before("Mme"),
        "n\u00b0": _before("no"),
        "av JC": lambda _: "av. J.-C.",
        "e": lambda given: "" if given[0] or given[1] else "e",
    },
}  # fmt: skip
"""By language and the template's name, whose first letter is small."""
