"""Mends plain text around holes: what was cut out leaves empty brackets, lonely commas, words that stick together."""

from __future__ import annotations

import re

from data_prep.wiki.prune import HELD, HOLE

_EMPTY_BRACKETS = re.compile(f" ?[(\\[][ ;,:{HOLE}]*{HOLE}[ ;,:{HOLE}]*[)\\]]")
_SUM_IS_MISSING = re.compile(f" ?\\([^()]*[$\u00a3\u20ac]{HOLE}[^()]*\\)")
"""`(equal to $5 in 2016)`, of which templates have reckoned the sum and the year."""
_AFTER_OPENING = re.compile(f"(?<=[(\\[])[ {HOLE}]*{HOLE}[ ;,:{HOLE}]*")
_BEFORE_CLOSING = re.compile(f"[ ;,:{HOLE}]*{HOLE}[ {HOLE}]*(?=[)\\]])")
_TWO_MARKS = re.compile(f"[;,:] *{HOLE}[ {HOLE}]*(?=[;,:.])")
_BEFORE_MARK = re.compile(f" *{HOLE}[ {HOLE}]*(?=[,.;:!?](?:\\s|$))")
_BETWEEN_WORDS = re.compile(
    f"(?<=[^\\s(\\[\"'\u201c\u2018/\u2013\u2014\\-{HOLE}]){HOLE}+(?=[^\\s.,;:!?)\\]\"'\u201d\u2019/\u2013\u2014\\-{HOLE}])"
)
_AT_BEGINNING = re.compile(f"\\A[ {HOLE}]*{HOLE}[ ,.;:{HOLE}]*(?= |\\w)")
_HOLE = re.compile(f" *{HOLE}+(?= )|{HOLE}+")
_OPENING = re.compile(r"\((?:[ ;,]*\])?[ ;,]+(?=[^\s;,)])|\([ ;,]*\][ ;,]*(?=[^\s;,)])")
_NOTHING_IN_BRACKETS = re.compile(r"(?<=[\w\"'.]) ?\([ ;,\]]+\)| \(\)|(?<=[^\W\d_]{4})\(\)(?= [^\W\d_])")
_BEFORE_END = re.compile(r"[ ;,]* \)")
_TWO_COMMAS = re.compile(r" ,(?= )|(?<=,) ,")
_BRACKET_ALONE = re.compile(r"(?<=\(), \] ")


def tidy(text: str) -> str:
    """Plain text without holes, its line breaks as they were; `HELD` becomes one.

    Args:
        text: Rendered, of one paragraph.
    """
    if HOLE in text:
        text = _AT_BEGINNING.sub("", text, 1)
        text = _EMPTY_BRACKETS.sub(HOLE, text)
        if f"${HOLE}" in text or f"\u00a3{HOLE}" in text or f"\u20ac{HOLE}" in text:
            text = _SUM_IS_MISSING.sub(HOLE, text)
        text = _AFTER_OPENING.sub("", text)
        text = _BEFORE_CLOSING.sub("", text)
        text = _TWO_MARKS.sub("", text)
        text = _BEFORE_MARK.sub("", text)
        text = _BETWEEN_WORDS.sub(" ", text)
        text = _HOLE.sub("", text)
    return text.replace(HELD, "\n")


def tidy_extracted(text: str) -> str:
    """Text that another program has extracted, which marks no holes: empty brackets go where a space is before them."""
    if "(" in text:
        text = _NOTHING_IN_BRACKETS.sub("", _BRACKET_ALONE.sub("", text))
        text = _BEFORE_END.sub(")", _OPENING.sub("(", text))
    return _TWO_COMMAS.sub(",", text).replace(",,", ",") if " ," in text else text
