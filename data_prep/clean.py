"""Cleaning: white space, optional code lines, length limits. What is dropped is counted by reason.

Nothing here judges language or quality: a filter nobody asked for is worse than a line too many.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

from ofa.config import CleanConfig

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffd]")
_BLANK_LINES = re.compile(r"\n{3,}")
_ODD_SPACE = re.compile("[\t\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_SPACES = re.compile("  +")
_CODE_LINE = re.compile(r"^[^\S\n]*(?:>>>|\.\.\.(?=\s|$)|[-=~^*#_+]{3,}[-=~^*#_+\s]*$).*\n?", re.MULTILINE)


def clean(text: str, config: CleanConfig, counts: Counter[str]) -> str | None:
    """The cleaned text, or None with the reason counted (`dropped_empty`, `dropped_short`, `dropped_long`).

    Lines are stripped and keep their breaks, runs of blank lines become one; control characters go.
    """
    counts["documents_read"] += 1
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    odd = "\ufffd" in text or not text.replace("\n", "").isprintable()  # spares most texts the slower searches
    if odd:
        text = _CONTROL.sub("", text)
    if config.drop_code_lines:
        text, dropped = _CODE_LINE.subn("", text)
        counts["code_lines_dropped"] += dropped
    if odd:
        text = _ODD_SPACE.sub(" ", text)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    text = text.strip()
    if not text:
        counts["dropped_empty"] += 1
    elif len(text) < config.min_characters:
        counts["dropped_short"] += 1
    elif config.max_characters is not None and len(text) > config.max_characters:
        counts["dropped_long"] += 1
    else:
        return text
    return None


def fingerprint(text: str) -> int:
    """64 bits that are equal for texts that differ in white space only.

    Two of n different texts share them with probability n^2 / 2^65: 1e-6 for the articles of the English Wikipedia.
    """
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def share_of(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone, uniform over keys."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") / 2**64
