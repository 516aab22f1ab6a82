"""Templates that leave text where they stand, and the text. All others leave none.

Which page a template is, and what it does, is decided by each wiki; these are the English Wikipedia's that stand inside
of sentences, those of other wikis that share their names, and a few of the German and the French one, for their dumps
alone (`data_prep.wiki.local_templates`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from data_prep.wiki import elements, local_templates, measures
from data_prep.wiki.local_templates import Rule
from data_prep.wiki.measures import Arguments
from data_prep.wiki.prune import HELD

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_FIRST = """
    nowrap nobr nobreak small smaller big large larger huge midsize center centre sc smallcaps sc2 allcaps
    abbr tooltip vanchor visible_anchor angbr angle_bracket ipa ipalink ipaslink math mvar bigmath em strong
    bold nobold noitalic italics nq not_a_typo proper_name as_written flag flagcountry flagu flag+link country
    quote blockquote quotation cquote centered_pull_quote bquote verse_translation poemquote
    poem_quote text_and_translation script/arabic script/hebrew script/greek unicode polytonic hebrew mono code
    codes kbd var samp tt section_link strikethrough sub sup su us_patent gloss single+double
    double+single wikt-lang translation smallcaps_all highlight nobull plain_link red crossreference char overline
    dfn term defn block_indent noredlink format_price
"""
"""Those that show their first value; `_` is a space."""

_QUOTATIONS = "quote blockquote quotation cquote centered_pull_quote bquote poemquote poem_quote rquote"
_SECOND = "lang rtl-lang wikt-lang langx font_color colored_text color colour background_color h:title script"
_JOIN = "chem chem2 gaps linktext digits ord"
_SHIPS = """
    uss hms ss rms usns mv hmas hmcs sms usat ms ins usrc mts hmt gts uscgc hmnzs hnoms hswms hdms hnlms orp rfa rrs
"""
_NAMESPACES = frozenset(
    ("template", "vorlage", "mod\u00e8le", "plantilla", "sjabloon", "predefini\u00e7\u00e3o", "mall", "szablon")
)
"""Names of the namespace of templates, which may stand before theirs."""

_OF_A_VALUE: dict[str, Callable[[str], str]] = {
    "formatnum": measures.grouped,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda value: value[:1].lower() + value[1:],
    "ucfirst": lambda value: value[:1].upper() + value[1:],
    "nowrap": str,
}
"""Functions of MediaWiki that a colon parts from their value."""

_SIGNS = {
    "\\": " / ",
    "nbsp": " ", "space": " ", "spaces": " ", "spaced ndash": " \u2013 ", "snd": " \u2013 ", "snds": " \u2013 ",
    "spnd": " \u2013 ", "ndash": "\u2013", "mdash": "\u2014", "mdashb": "\u2014", "emdash": "\u2014",
    "endash": "\u2013", "spaced mdash": " \u2014 ", "dash": " \u2013 ", "'": "'", "'s": "'s", "' \"": "' \"",
    "\" '": "\" '", "-\"": "\"", "=": "=", "!": "|", "\u00b7": " \u00b7 ", "dot": " \u00b7 ", "middot": " \u00b7 ",
    "bull": " \u2022 ", "\u2022": " \u2022 ", "pi": "\u03c0", "shy": "", "zwsp": "", "zwnj": "", "wbr": "",
    "thinsp": " ", "hair space": " ", "times": "\u00d7", "minus": "\u2212", "degree": "\u00b0", "\u00b0": "\u00b0",
    "extinct": "\u2020", "dagger": "\u2020", "en dash": "\u2013", "em dash": "\u2014", "hyphen": "-",
    "spaced en dash": " \u2013 ", "spndash": " \u2013 ", "nbhyph": "-", "'-": "'", "zwj": "", "pad": " ", "hairsp": " ",
    "thin space": " ", "nnbsp": " ", "ensp": " ", "emsp": " ", "figure space": " ", "okina": "\u02bb",
    "hamza": "\u02be", "ayin": "\u02bf", "sharp": "\u266f", "flat": "\u266d", "natural": "\u266e",
    "eqm": "\u21cc", "rarr": "\u2192", "larr": "\u2190", "harr": "\u2194",
    "number sign": "#", "asterisk": "*", "pipe": "|", "ampersand": "&", "euro": "\u20ac",
}  # fmt: skip


def keeps(name: str, language: str) -> bool:
    """Whether a template leaves text.

    Args:
        name: As it is written, `Convert ` or `lang-de`.
        language: Of the wiki, `en`.
    """
    return _rule(name, language) is not None


def text_of(name: str, positional: Sequence[str], named: Mapping[str, str], language: str) -> str | None:
    """What a template leaves; None if that is nothing, "" if it is not known from these values.

    Args:
        name: As it is written.
        positional: Values without a name, as plain text, in order; numbered ones are among them.
        named: Values with a name.
        language: Of the wiki.
    """
    rule = _rule(name, language)
    if rule is None:
        return ""
    return rule((list(positional), named))


def _rule(name: str, language: str) -> Rule | None:
    name = " ".join(name.replace("_", " ").split())
    function, colon, value = name.partition(":")
    if colon and function.lower() in _NAMESPACES:
        return _rule(value, language)
    local = local_templates.rule(name, language)
    if local is not None:
        return local
    if colon and function.lower() in _OF_A_VALUE:
        return lambda _: _OF_A_VALUE[function.lower()](value.strip())
    return _shared_rule(name.lower())


def _shared_rule(name: str) -> Rule | None:
    if name in _RULES:
        return _RULES[name]
    if name.startswith("ipa-"):
        return _sounds
    if name in elements.SYMBOLS:
        return lambda given: "" if given[0] or given[1] else elements.SYMBOLS[name]
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


def _prefixed(kind: str) -> Callable[[Arguments], str]:
    return lambda given: f"{kind} {_first(given)}"


def _spaced(count: int) -> Callable[[Arguments], str]:
    return lambda given: " ".join(filter(None, (value.strip() for value in given[0][:count])))


def _class_of_ships(given: Arguments) -> str:
    return f"{_first(given)}-class {_number(2)(given)}" if _number(2)(given) else f"{_first(given)} class"


def _sounds(given: Arguments) -> str | None:
    """`ts|` as a word of the sentence; with a label, or none, it tells how the word before it is spoken, and goes."""
    return f"[{_first(given)}]" if len(given[0]) > 1 and not given[0][1].strip() else None


def _items(given: Arguments) -> str:
    return ", ".join(filter(None, (value.strip(f" {HELD}") for value in given[0])))


def _citation(given: Arguments) -> str:
    """`Boole|Jeffrey|1974` -> `Boole & Jeffrey (1974)`: a citation that is the subject of a sentence."""
    *names, year = [value.strip() for value in given[0] if value.strip()] or [""]
    if not names:
        return year
    authors = f"{names[0]} et al." if len(names) > 3 else " & ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{authors} ({year})"


def _verse(given: Arguments) -> str:
    """`1|Kings|8:1|KJV` -> `1 Kings 8:1`."""
    values = [value.strip() for value in given[0] if value.strip()]
    stop = next((index + 1 for index, value in enumerate(values) if index and value[:1].isdigit()), len(values))
    return " ".join(values[:stop])


def _ordinal(given: Arguments) -> str:
    number = _first(given)
    is_teen = number[-2:-1] == "1"
    return number + ("th" if is_teen else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th"))


def _resized(given: Arguments) -> str:
    return _last(given) if len(given[0]) < 3 else _number(2)(given)


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


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_names(_FIRST), _first),
    **dict.fromkeys(_names(_SECOND), _number(2)),
    **dict.fromkeys(_names(_QUOTATIONS), _quotation),
    **dict.fromkeys(_names(_JOIN), _joined),
    **dict.fromkeys(("transl", "translit", "tlit", "transliteration", "iast", "xlit"), _last),
    **{name: _prefixed(name.upper()) for name in _names(_SHIPS)},
    **dict.fromkeys(("sclass", "sclass-", "sclass2", "sclass2-"), _class_of_ships),
    **{name: (lambda _, sign=sign: sign) for name, sign in _SIGNS.items()},
    **dict.fromkeys(("convert", "cvt", "convinfobox"), measures.convert),
    **dict.fromkeys(("coord", "coordinates"), measures.place),
    **dict.fromkeys(("track gauge", "railgauge"), measures.track_gauge),
    **dict.fromkeys(("as of", "asof"), _as_of),
    **dict.fromkeys(("frac", "fraction", "sfrac"), _fraction),
    **dict.fromkeys(("nihongo", "nihongo2", "nihongo3", "korean"), _nihongo),
    **dict.fromkeys(("circa", "c.", "ca."), _before("c. ")),
    **dict.fromkeys(("floruit", "fl."), _before("fl. ")),
    **dict.fromkeys(("n\u00e9e", "nee"), _before("n\u00e9e ")),
    **dict.fromkeys(("radic", "sqrt"), _before("\u221a")),
    **dict.fromkeys(("us$", "usd"), _before("US$")),
    **dict.fromkeys(("inr", "indian rupee"), _before("\u20b9")),
    **dict.fromkeys(("jpy", "yen", "cny"), _before("\u00a5")),
    **dict.fromkeys(("angbr", "angle bracket", "vr"), _between),
    **dict.fromkeys(_names("ill illm interlanguage_link interlanguage_link_multi link-interwiki"), _interlanguage),
    **dict.fromkeys(("nuclide", "nuclide2", "simplenuclide"), lambda given: "-".join(_spaced(2)(given).split())),
    **dict.fromkeys(("bibleref", "bibleref2", "bibleverse", "bibleverse-lb", "bibleverse-nb"), _verse),
    **dict.fromkeys(("key press", "keypress"), lambda given: "+".join(value.strip() for value in given[0])),
    **dict.fromkeys(("harvtxt", "harvcoltxt"), _citation),
    "val": _value,
    "e": _before("\u00d710^"),
    "hlist": _items,
    "gbp": _before("\u00a3"),
    "euro": _before("\u20ac"),
    "oldstyledate": _old_date,
    "aud": _before("A$"),
    "ship": _spaced(2),
    "height": measures.height,
    "ordinal": _ordinal,
    "resize": _resized,
    "sic": lambda given: None if _first(given) in ("?", "!") else _joined(given),
    "music": lambda given: {"flat": "\u266d", "sharp": "\u266f", "natural": "\u266e"}.get(_first(given), _first(given)),
    "formatnum": lambda given: measures.grouped(_first(given)),
}
