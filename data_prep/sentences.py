"""Sentence splitters: text in, sentences out, in order, white space normalised, no other character lost.

A blank line always ends a sentence; a single line break never does. `rule` looks at what stands before and after each
full stop, question or exclamation mark; it is about as fast as reading the text. `nupunkt` knows more abbreviations and
takes several times as long.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from data_prep.documents import DataPrepError

_PARAGRAPH = re.compile(r"\n\s*\n")

_WIDE = re.compile(r"([\u3002\uff01\uff1f])(?=\S)")
"""Full stops of Chinese and Japanese, which no space follows."""

_CANDIDATE = re.compile(
    r"([.!?\u2026\u3002\uff01\uff1f])([\"')\]\u201d\u2019\u00bb*`]*) ([\"'(\[\u201c\u2018\u00ab*`]*)(?=(\S))"
)
"""Groups: the mark, closing quotes, opening quotes, what follows."""

_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018/-]*$")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J, U.S

_TITLES = (
    "mr mrs ms messrs mme mlle dr drs prof rev hon st gen col maj capt cmdr lt sgt cpl pvt adm gov pres sen rep fr"
)
_WORDS = "br mt ft vs viz cf e.g i.e eg ie resp approx ca al eds repr dept univ assn bros"
_ALWAYS_GO_ON = frozenset(f"{_TITLES} {_WORDS}".split())
"""Abbreviations that something follows, whatever its case."""

_PLACES = "no nos nr p pp vol vols fig figs eq eqs sec ch chap art"
_MONTHS = "jan feb mar apr jun jul aug sept oct nov dec"
_NUMBERED = frozenset(f"{_PLACES} {_MONTHS}".split())
"""Abbreviations only in front of a number."""


def splitter(kind: str) -> Callable[[str], list[str]]:
    """The function behind a config's `sentences`: rule, nupunkt or none.

    Raises:
        DataPrepError: nupunkt is not installed.
    """
    if kind == "rule":
        return split_by_rule
    if kind == "none":
        return lambda text: [joined] if (joined := " ".join(text.split())) else []
    try:
        import nupunkt  # an extra
    except ImportError:
        raise DataPrepError("sentences: nupunkt is not installed: pip install nupunkt, or use rule") from None

    return lambda text: [
        sentence
        for paragraph in paragraphs(text)
        for found in nupunkt.sent_tokenize(paragraph)
        if (sentence := str(found).strip())
    ]


def paragraphs(text: str) -> list[str]:
    """Blocks between blank lines, each on one line."""
    return [joined for block in _PARAGRAPH.split(text) if (joined := " ".join(block.split()))]


def split_by_rule(text: str) -> list[str]:
    """Sentences by punctuation, case, abbreviations and initials."""
    sentences = []
    for paragraph in paragraphs(_WIDE.sub(r"\1 ", text)):
        start = 0
        for match in _CANDIDATE.finditer(paragraph):
            if _ends_sentence(paragraph, start, match):
                end = match.end(2)
                sentences.append(paragraph[start:end])
                start = end + 1
        sentences.append(paragraph[start:])
    return sentences


def _ends_sentence(paragraph: str, start: int, match: re.Match[str]) -> bool:
    mark, closing, opening, following = match.groups()
    if "`" not in opening and (following.islower() or not (following.isalnum() or opening)):
        return False  # "etc. and", "?" she said; code in back quotes may begin a sentence
    if mark != "." or closing:
        return True
    found = _LAST_WORD.search(paragraph, max(start, match.start() - 20), match.start())
    word = found.group() if found else ""
    lower = word.lower()
    if lower in _NUMBERED:
        return not following.isdigit()
    # "J. Smith" goes on; "Plan B. Then" cannot be told from it and goes on too
    return lower not in _ALWAYS_GO_ON and (word == "I" or not _INITIAL.fullmatch(word))
