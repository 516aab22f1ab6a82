"""Templates that leave text where they stand, and the text. All others leave none.

Which page a template is, and what it does, is decided by each wiki; these are the English Wikipedia's that stand inside
of sentences, and those of other wikis that share their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Arguments = tuple[Sequence[str], Mapping[str, str]]
"""Values without a name in order, and those with one."""

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_UNITS = {
    "sqmi": "square miles", "sqft": "square feet", "sqkm": "km\u00b2", "km2": "km\u00b2", "m2": "m\u00b2",
    "cm2": "cm\u00b2", "mi2": "square miles", "m3": "m\u00b3", "km3": "km\u00b3", "cm3": "cm\u00b3",
    "cuft": "cubic feet", "cumi": "cubic miles", "C": "\u00b0C", "F": "\u00b0F", "K": "K", "c": "\u00b0C",
    "f": "\u00b0F", "mph": "mph", "km/h": "km/h", "kph": "km/h", "m/s": "m/s", "in": "inches", "ft": "ft",
    "feet": "feet", "acre": "acres", "mi": "miles", "lb": "lb", "lbs": "lb", "nmi": "nautical miles",
    "impgal": "imperial gallons", "USgal": "US gallons", "t": "t", "/sqkm": "per km\u00b2", "/km2": "per km\u00b2",
    "/sqmi": "per square mile", "PD/km2": "per km\u00b2", "PD/sqmi": "per square mile",
}  # fmt: skip
"""What stands behind the number, where it is not what the code is."""

_UNITS |= {
    "Moilbbl": "million barrels", "Moilbbl/d": "million barrels per day", "oilbbl": "barrels",
    "oilbbl/d": "barrels per day",
    "hp": "hp", "shp": "shp", "km2/sqmi": "km", "ha": "hectares", "kg": "kg", "lbf": "pounds-force", "L": "litres",
}  # fmt: skip

_POWERS = {"3": "thousand ", "6": "million ", "9": "billion ", "12": "trillion "}
_JOINED = {
    "-": "\u2013",
    "\u2013": "\u2013",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " \u00d7 ",
    "+": "+",
}
"""Between two numbers of one measure."""

_FIRST = """
    nowrap nobr nobreak small smaller big large larger huge midsize resize center centre sc smallcaps sc2 allcaps
    abbr tooltip h:title vanchor visible_anchor angbr angle_bracket ipa ipalink ipaslink math mvar bigmath em strong
    bold nobold noitalic italics nq not_a_typo proper_name as_written flag flagcountry flagu flag+link country
    track_gauge railgauge quote blockquote quotation cquote centered_pull_quote bquote verse_translation poemquote
    poem_quote text_and_translation script/arabic script/hebrew script/greek unicode polytonic hebrew mono code
    codes kbd var samp tt section_link strikethrough sub sup su legend legend0 us_patent gloss single+double
    double+single wikt-lang translation smallcaps_all font font_color color colour highlight background_color pad
    nobull plain_link red crossreference
"""
"""Those that show their first value; `_` is a space."""

_QUOTATIONS = "quote blockquote quotation cquote centered_pull_quote bquote poemquote poem_quote rquote"
_SECOND = "lang rtl-lang wikt-lang langx font_color colored_text"
_JOIN = "chem chem2 gaps linktext digits"
_SHIPS = "uss hms ss rms usns mv hmas hmcs sms usat ms ins usrc mts hmt gts"
_SIGNS = {
    "nbsp": " ", "space": " ", "spaces": " ", "spaced ndash": " \u2013 ", "snd": " \u2013 ", "snds": " \u2013 ",
    "spnd": " \u2013 ", "ndash": "\u2013", "mdash": "\u2014", "mdashb": "\u2014", "emdash": "\u2014",
    "endash": "\u2013", "spaced mdash": " \u2014 ", "dash": " \u2013 ", "'": "'", "'s": "'s", "' \"": "' \"",
    "\" '": "\" '", "-\"": "\"", "=": "=", "!": "|", "\u00b7": " \u00b7 ", "dot": " \u00b7 ", "middot": " \u00b7 ",
    "bull": " \u2022 ", "\u2022": " \u2022 ", "pi": "\u03c0", "shy": "", "zwsp": "", "zwnj": "", "wbr": "",
    "thinsp": " ", "hair space": " ", "times": "\u00d7", "minus": "\u2212", "degree": "\u00b0", "\u00b0": "\u00b0",
    "extinct": "\u2020", "dagger": "\u2020", "en dash": "\u2013", "em dash": "\u2014", "hyphen": "-",
    "number sign": "#", "asterisk": "*", "pipe": "|", "ampersand": "&", "euro": "\u20ac",
}  # fmt: skip


def keeps(name: str) -> bool:
    """Whether a template leaves text.

    Args:
        name: As it is written, `Convert ` or `lang-de`.
    """
    return _rule(name) is not None


def text_of(name: str, positional: Sequence[str], named: Mapping[str, str]) -> str:
    """What a template leaves, "" if that is nothing.

    Args:
        name: As it is written.
        positional: Values without a name, as plain text, in order; numbered ones are among them.
        named: Values with a name.
    """
    rule = _rule(name)
    if rule is None:
        return ""
    return rule((list(positional), named))


def _rule(name: str) -> Callable[[Arguments], str] | None:
    name = " ".join(name.replace("_", " ").split()).lower()
    function, colon, value = name.partition(":")
    if colon and function in ("formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap"):
        return lambda _: value.strip()
    if name in _RULES:
        return _RULES[name]
    return _first if name.startswith("lang-") else None


def _number(number: int) -> Callable[[Arguments], str]:
    return lambda given: given[0][number - 1].strip() if len(given[0]) >= number else ""


_first = _number(1)


def _quotation(given: Arguments) -> str:
    named = next((given[1][name] for name in ("text", "quote", "content") if given[1].get(name)), "")
    return _first(given) or named.strip()


def _last(given: Arguments) -> str:
    return given[0][-1].strip() if given[0] else ""


def _joined(given: Arguments) -> str:
    return "".join(value.strip() for value in given[0])


def _convert(given: Arguments) -> str:
    """`5|to|10|ft|m` -> `5 to 10 ft`: what was measured, not what it is in other units."""
    found = ""
    values = [value.strip() for value in given[0]]
    while values and (re.match(r"[-+\u2212]?[\d.,]", values[0]) or (found and values[0] in _JOINED)):
        one = values.pop(0)
        found += _JOINED.get(one, one)
    if not found or not values:
        return found
    power = re.match(r"e(3|6|9|12)(?=\D)", values[0])  # e6carat: million carat
    code = values[0][power.end() :] if power else values[0]
    unit = (_POWERS[power[1]] if power else "") + _UNITS.get(code, code.replace("_", " "))
    return found + ("" if unit.startswith("\u00b0") else " ") + unit


def _as_of(given: Arguments) -> str:
    values = [value.strip() for value in given[0]]
    if not values:
        return ""
    month = values[1] if len(values) > 1 else ""
    month = _MONTHS[int(month) - 1] if month.isdigit() and 1 <= int(month) <= 12 else month
    word = given[1].get("bare") and " " or ("as of " if given[1].get("lc") else "As of ")
    day = values[2] if len(values) > 2 else ""
    return f"{word}{' '.join(filter(None, [day, month, values[0]]))}".strip()


def _fraction(given: Arguments) -> str:
    values = [value.strip() for value in given[0]]
    if len(values) == 1:
        return f"1/{values[0]}"
    return f"{values[0]} {values[1]}/{values[2]}" if len(values) == 3 else "/".join(values)


def _nihongo(given: Arguments) -> str:
    first, *rest = [*(value.strip() for value in given[0]), "", "", ""][:3]
    more = ", ".join(value for value in rest if value)
    return f"{first} ({more})" if first and more else first or more


def _value(given: Arguments) -> str:
    number, named = _first(given), given[1]
    number += f"\u00d710^{named['e'].strip()}" if named.get("e") else ""
    unit = named.get("u") or named.get("ul") or ""
    return f"{number} {unit.strip()}".strip()


def _ship(kind: str) -> Callable[[Arguments], str]:
    return lambda given: f"{kind} {_first(given)}"


def _interlanguage(given: Arguments) -> str:
    """`Title|de` of today, or `de|Title` of old."""
    return _number(2)(given) if re.fullmatch(r"[a-z]{2,3}", _first(given)) and len(given[0]) > 1 else _first(given)


def _before(sign: str) -> Callable[[Arguments], str]:
    return lambda given: f"{sign}{_first(given)}"


def _between(given: Arguments) -> str:
    return f"\u27e8{_first(given)}\u27e9"


def _old_date(given: Arguments) -> str:
    values = [value.strip() for value in given[0]]
    return ", ".join(values[:2])


def _names(text: str) -> list[str]:
    return [name.replace("_", " ") for name in text.split()]


_RULES: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(_names(_FIRST), _first),
    **dict.fromkeys(_names(_SECOND), _number(2)),
    **dict.fromkeys(_names(_QUOTATIONS), _quotation),
    **dict.fromkeys(_names(_JOIN), _joined),
    **dict.fromkeys(("transl", "transliteration", "iast", "xlit"), _last),
    **{name: _ship(name.upper()) for name in _names(_SHIPS)},
    **{name: (lambda _, sign=sign: sign) for name, sign in _SIGNS.items()},
    **dict.fromkeys(("convert", "cvt", "convinfobox"), _convert),
    **dict.fromkeys(("as of", "asof"), _as_of),
    **dict.fromkeys(("frac", "fraction", "sfrac"), _fraction),
    **dict.fromkeys(("nihongo", "nihongo2", "nihongo3", "korean"), _nihongo),
    **dict.fromkeys(("circa", "c.", "ca."), _before("c. ")),
    **dict.fromkeys(("us$", "usd"), _before("US$")),
    **dict.fromkeys(("angbr", "angle bracket"), _between),
    **dict.fromkeys(("ill", "interlanguage link", "link-interwiki"), _interlanguage),
    "val": _value,
    "e": _before("\u00d710^"),
    "gbp": _before("\u00a3"),
    "euro": _before("\u20ac"),
    "oldstyledate": _old_date,
    "bibleref": lambda given: " ".join(value.strip() for value in given[0][:2]),
    "bibleref2": lambda given: " ".join(value.strip() for value in given[0][:2]),
    "music": lambda given: {"flat": "\u266d", "sharp": "\u266f", "natural": "\u266e"}.get(_first(given), _first(given)),
    "format price": _first,
    "formatnum": _first,
}
