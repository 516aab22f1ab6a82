"""What templates of numbers leave: measures with their unit, heights, places on the globe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Arguments = tuple[Sequence[str], Mapping[str, str]]
"""Values without a name in order, and those with one."""

_UNITS = {
    "sqmi": "square miles", "sqft": "square feet", "sqkm": "km\u00b2", "km2": "km\u00b2", "m2": "m\u00b2",
    "cm2": "cm\u00b2", "mi2": "square miles", "m3": "m\u00b3", "km3": "km\u00b3", "cm3": "cm\u00b3",
    "cuft": "cubic feet", "cumi": "cubic miles", "C": "\u00b0C", "F": "\u00b0F", "K": "K", "c": "\u00b0C",
    "f": "\u00b0F", "mph": "mph", "km/h": "km/h", "kph": "km/h", "m/s": "m/s", "in": "inches", "ft": "ft",
    "feet": "feet", "acre": "acres", "mi": "miles", "lb": "lb", "lbs": "lb", "nmi": "nautical miles",
    "impgal": "imperial gallons", "USgal": "US gallons", "t": "t", "/sqkm": "per km\u00b2", "/km2": "per km\u00b2",
    "/sqmi": "per square mile", "PD/km2": "per km\u00b2", "PD/sqmi": "per square mile",
    "Moilbbl": "million barrels", "Moilbbl/d": "million barrels per day", "oilbbl": "barrels",
    "oilbbl/d": "barrels per day", "koilbbl": "thousand barrels", "koilbbl/d": "thousand barrels per day",
    "Goilbbl": "billion barrels", "carat": "carats",
    "hp": "hp", "shp": "shp", "km2/sqmi": "km", "ha": "hectares", "kg": "kg", "lbf": "pounds-force", "L": "litres",
}  # fmt: skip
"""What stands behind the number, where it is not what the code is."""

_ONE = {
    "miles": "mile", "feet": "foot", "inches": "inch", "acres": "acre", "barrels": "barrel", "gallons": "gallon",
    "hectares": "hectare", "litres": "litre", "carats": "carat",
}  # fmt: skip
_MANY = re.compile(rf"\b(?:{'|'.join(_ONE)})\b")

_LARGE = re.compile("thousand|million|billion|trillion")

_PARTS = {"mi": ("yd", "ft", "ch"), "yd": ("ft", "in"), "ft": ("in",), "st": ("lb",), "lb": ("oz",)}
"""Units that follow a greater one in the same measure."""

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

_NUMBER = re.compile(r"[-+\u2212]?[\d.,]")
_PLAIN_NUMBER = re.compile(r"(?<![\d.,])\d{4,}(?![\d,])")
_SIDES = {"N": "N", "S": "S", "E": "E", "W": "W", "O": "E"}


def convert(given: Arguments) -> str:
    """`5|to|10|ft|m` -> `5 to 10 ft`, `40|acre|adj=on` -> `40-acre`: as it was measured, not in other units."""
    values = [value.strip() for value in given[0]]
    found: list[str] = []
    code = ""
    while values and _NUMBER.match(values[0]):
        if found and not (len(values) > 1 and values[1] in _PARTS.get(code, ())):
            break
        number = _taken(values, given[1].get("comma", "").strip())
        code = values.pop(0) if values else ""
        found.append(f"{number} {code}" if found else _measure(number, code, given))
    return " ".join(found)


def grouped(number: str) -> str:
    """Digits in groups of three, as `convert` and `formatnum` show them."""
    return _PLAIN_NUMBER.sub(lambda match: f"{int(match.group()):,}", number)


def height(given: Arguments) -> str:
    """`ft=5|in=11` -> `5 ft 11 in`."""
    return " ".join(f"{given[1][unit].strip()} {unit}" for unit in ("ft", "in", "m", "cm") if given[1].get(unit))


def track_gauge(given: Arguments) -> str:
    """`4ft8.5in` -> `4 ft 8.5 in`."""
    return re.sub(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)", " ", given[0][0].strip() if given[0] else "")


def place(given: Arguments) -> str | None:
    """`13|19|N|169|9|W` -> degrees and minutes; None if they are for the margin alone."""
    display = given[1].get("display", "inline").strip().lower()
    if "i" not in display.replace("title", "t"):
        return None
    values = [value.strip() for value in given[0]]
    ends = [index for index, value in enumerate(values) if value.upper() in _SIDES][:2]
    if len(ends) == 2:
        return " ".join(_angle(values[start:end], values[end]) for start, end in ((0, ends[0]), (ends[0] + 1, ends[1])))
    if len(values) < 2 or not all(re.fullmatch(r"[-\u2212+]?[\d.]+", value) for value in values[:2]):
        return ""
    return f"{_degrees(values[0], 'NS')} {_degrees(values[1], 'EW')}"


def _degrees(value: str, sides: str) -> str:
    return value.lstrip("+-\u2212") + "\u00b0" + sides[value[0] in "-\u2212"]


def _taken(values: list[str], comma: str) -> str:
    """The number, or the range of numbers, that the values begin with; they are without it then."""
    found = ""
    while values and (_NUMBER.match(values[0]) or (found and values[0] in _JOINED)):
        one = values.pop(0)
        is_long = len(re.match(r"\D?(\d*)", one)[1]) > 4  # type: ignore[index] - matches anything
        one = grouped(one) if comma != "off" and (comma != "5" or is_long) else one
        found += _JOINED.get(one, one)
    return re.sub(r"(?<=\d)\+(?=\d+/)", " ", found)


def _measure(number: str, code: str, given: Arguments) -> str:
    if not code:
        return number
    power = re.match(r"e(3|6|9|12)(?=\D)", code)  # e6carat: million carat
    code = code[power.end() :] if power else code
    unit = (_POWERS[power[1]] if power else "") + _UNITS.get(code, code.replace("_", " "))
    if unit.startswith("\u00b0"):
        return number + unit
    adjective = given[1].get("adj", "").strip()
    is_adjective = adjective in ("on", "mid") and _MANY.search(unit) is not None  # 40-acre, but 40 m
    if is_adjective or (number == "1" and not _LARGE.match(unit)):
        unit = _MANY.sub(lambda match: _ONE[match.group()], unit)
    unit = "-" + unit.replace(" ", "-") if is_adjective else " " + unit
    more = given[0][-1].rstrip() if adjective in ("mid", "pre") else ""
    return f"{number} {more.strip()}{unit}" if adjective == "pre" else f"{number}{unit}{more}"


def _angle(values: list[str], side: str) -> str:
    signs = zip(values, "\u00b0\u2032\u2033", strict=False)
    return "".join(f"{value}{sign}" for value, sign in signs) + _SIDES[side.upper()]
