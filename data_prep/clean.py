"""Cleaning: white space, control characters, optional lines and Unicode forms; then the filters that the config names.

What is dropped is counted by reason. Nothing judges language or quality unasked: a filter nobody asked for is worse
than a line too many.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter

from data_prep.filters import reason_to_drop
from data_prep.tally import Tally
from ofa.config import CleanConfig

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffd]")
_BLANK_LINES = re.compile(r"\n{3,}")
_ODD_SPACE = re.compile("[\t\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_SPACES = re.compile("  +")
_CODE_LINE = re.compile(r"^[^\S\n]*(?:>>>|\.\.\.(?=\s|$)|[-=~^*#_+]{3,}[-=~^*#_+\s]*$).*\n?", re.MULTILINE)

_COUNTED = {"\0": "documents_with_nul", "\ufffd": "documents_with_undecodable_bytes"}

_BOILERPLATE = re.compile(
    r"^(?=.{0,300}$).*\b(?:cookies? (?:policy|settings|to improve|on this)|uses? cookies|privacy policy"
    r"|terms of (?:use|service)|all rights reserved|javascript (?:is|must|to be|in your)|enable javascript|lorem ipsum"
    r"|click here|sign up for|log ?in to|subscribe to our|follow us on|share (?:this|on)|add to cart"
    r"|skip to (?:main )?content|back to top)\b.*\n?",
    re.MULTILINE | re.IGNORECASE,
)
"""Lines of web pages that are no text of theirs, none longer than 300 characters."""


def clean(text: str, config: CleanConfig, counts: Tally, identifier: str = "") -> str | None:
    """The cleaned text, or None with the reason counted: `dropped_empty`, or that of a filter (`data_prep.filters`).

    Lines are stripped and keep their breaks, runs of blank lines become one; control characters go. Texts that held NUL
    or the mark of undecodable bytes are counted.
    """
    counts["documents_read"] += 1
    cleaned = _cleaned(text, config, counts)
    reason = reason_to_drop(cleaned, config) if cleaned else "dropped_empty"
    if reason is None:
        return cleaned
    counts.reject(reason, identifier, cleaned)
    return None


def _cleaned(text: str, config: CleanConfig, counts: Counter[str]) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    odd = "\ufffd" in text or not text.replace("\n", "").isprintable()  # spares most texts the slower searches
    if odd:
        for character, name in _COUNTED.items():
            if character in text:
                counts[name] += 1
        text = _CONTROL.sub("", text)
    if config.unicode != "none":
        text = unicodedata.normalize(config.unicode, text)
    if config.drop_code_lines:
        text, dropped = _CODE_LINE.subn("", text)
        counts["code_lines_dropped"] += dropped
    if config.drop_boilerplate_lines:
        text, dropped = _BOILERPLATE.subn("", text)
        counts["boilerplate_lines_dropped"] += dropped
    if odd:
        text = _ODD_SPACE.sub(" ", text)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip()


def fingerprint(text: str) -> int:
    """64 bits that are equal for texts that differ in white space only.

    Two of n different texts share them with probability n^2 / 2^65: 1e-6 for the articles of the English Wikipedia.
    """
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def share_of(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone, uniform over keys."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") / 2**64
