"""A page's wikitext -> plain text: paragraphs, with a blank line between two.

Lines say what is a heading, a list or a paragraph; inside of a paragraph `data_prep.wiki.inline` reads the markup.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from data_prep.wiki import elements, templates
from data_prep.wiki.inline import MAGIC_WORD, plain
from data_prep.wiki.prune import HOLE, prune
from data_prep.wiki.sites import SECTIONS_WITHOUT_TEXT
from data_prep.wiki.tidy import tidy

_BLOCK_TAG = re.compile(
    r"</?(?:blockquote|div|center|poem|p|ul|ol|dl|dd|dt|hr|section|h[1-6]|onlyinclude|noinclude)\b[^<>]*>|<br\s*/?>\s*<br\s*/?>",
    re.IGNORECASE,
)
_ITEM_TAG = re.compile(r"<li\b[^<>]*>", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})[ \t]*(.+?)[ \t]*\1[ \t]*$")
_TABLE_LINE = re.compile(r"\s*(?:\{\||\|[-}+|]?|!.*(?:!!|\|\|))")
_LIST_MARKS = re.compile(r"[*#:;]+")
_RULE = re.compile(r"-{4,}\s*")
_MAGIC = re.compile(MAGIC_WORD)
_HATNOTE = re.compile(
    r"(?:see also|see|main articles?|main page|further information|for (?:other|the|a|an|more)\b.*\bsee"
    r"|this (?:article|page) is about|not to be confused|.* redirects? here)\b",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[a-z]{2,3}|simple|zh-[a-z-]+|be-tarask|be-x-old")
"""Prefixes of links to the same page in other languages, in the margin; with a colon before them they are text."""

_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*$")
_SENTENCE_WORDS = 6
_SENTENCE_BREAK = re.compile(r"[^\W\d_]{3,}[.!?][\"'\u201d\u2019)\]]* (?=[A-Z][a-z]* [a-z])")
_CLAUSE_END = re.compile(r"[;,](?: (?:and|or)\b,?)?$")
_SPACES = re.compile(r"[ \t\u00a0]{2,}")


@dataclass(frozen=True)
class TextOptions:
    """What of a page becomes text."""

    headings: bool = False
    lists: str = "sentences"
    """`drop`, `sentences` (items that are whole sentences), or `keep`."""
    without_text: frozenset[str] = frozenset(SECTIONS_WITHOUT_TEXT["en"])
    """Titles of sections that are left out, in small letters."""
    dropped_prefixes: frozenset[str] = frozenset(("file", "image", "category", "media"))
    """Of link targets that are no text, in small letters: pictures, categories, pages of other wikis."""
    language: str = "en"
    """Of the wiki; its own templates are known by it."""


@dataclass
class _Block:
    kind: str
    """`paragraph`, `item`, `term` or `heading`."""
    text: str
    level: int = 0


def to_text(wikitext: str, options: TextOptions, counts: Counter[str]) -> str:
    """Plain text of a page.

    Args:
        wikitext: As the dump has it.
        options: What becomes text.
        counts: What could not be read cleanly is added: `leftover_markup`, `table_lines`, `unparsed_paragraphs`,
            `unclosed_markup`, `unclosed_comments`, `templates_not_rendered`, and each of these by its name.
    """
    lines = _ITEM_TAG.sub("\n* ", _BLOCK_TAG.sub("\n\n", _MAGIC.sub("", elements.ALONE.sub("", wikitext))))
    language = options.language
    pruned = prune(
        lines, lambda name: templates.keeps(name, language), lambda target: _keeps_link(target, options), counts
    )
    blocks = [_Block(one.kind, _readable(one, language, counts), one.level) for one in _blocks(pruned, counts)]
    blocks = _without_sections(blocks, options)
    if options.lists == "sentences":
        blocks = _with_enumerations(blocks)
    kept = [block for block in blocks if _is_kept(block, options)]
    return "\n\n".join(block.text for block in _without_empty_headings(kept))


def is_prose(text: str) -> bool:
    """Whether an item of a list is a whole sentence, or several, or begins with one."""
    end = _SENTENCE_END.search(text) or _SENTENCE_BREAK.search(text)
    return end is not None and len(text[: end.end()].split()) >= _SENTENCE_WORDS


def _keeps_link(target: str, options: TextOptions) -> bool:
    prefix, colon, _ = target.partition(":")
    if not colon or not prefix.strip():
        return True
    return prefix.strip().replace("_", " ").lower() not in options.dropped_prefixes and not _LANGUAGE.fullmatch(prefix)


def _blocks(pruned: str, counts: Counter[str]) -> list[_Block]:
    """Headings, items and paragraphs in order; lines that follow each other are one paragraph."""
    found: list[_Block] = []
    lines: list[str] = []

    def end_paragraph() -> None:
        if lines:
            found.append(_Block("paragraph", " ".join(lines)))
            lines.clear()

    for line in pruned.split("\n"):
        line = line.strip()
        heading = _HEADING.match(line) if line.startswith("=") else None
        if heading is not None:
            end_paragraph()
            found.append(_Block("heading", heading[2], len(heading[1])))
        elif not line.strip(HOLE + " ") or _RULE.fullmatch(line):
            end_paragraph()
        elif line[0] in "*#:;":
            end_paragraph()
            found.append(_item(line))
        elif line[0] in "|!{" and _TABLE_LINE.match(line):
            end_paragraph()
            counts["table_lines"] += 1
        else:
            lines.append(line)
    end_paragraph()
    return found


def _item(line: str) -> _Block:
    marks = _LIST_MARKS.match(line)
    assert marks is not None
    last = marks.group()[-1]
    kind = "paragraph" if marks.group().strip(":") == "" else ("term" if last == ";" else "item")
    text = line[marks.end() :].strip()
    if kind == "paragraph" and _HATNOTE.match(text.strip("' ")):
        return _Block("hatnote", text)
    return _Block(kind, text)


def _readable(block: _Block, language: str, counts: Counter[str]) -> str:
    text = tidy(plain(block.text, language, counts))
    parts = [" ".join(_SPACES.sub(" ", line).strip() for line in part.split("\n")) for part in text.split("\n\n")]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _without_sections(blocks: list[_Block], options: TextOptions) -> list[_Block]:
    """Without the sections that hold no text, down to the next heading of their level."""
    kept, skipping = [], 0
    for block in blocks:
        if block.kind == "heading":
            if skipping and block.level <= skipping:
                skipping = 0
            if not skipping and block.text.strip(" :").lower() in options.without_text:
                skipping = block.level
        if not skipping:
            kept.append(block)
    return kept


def _with_enumerations(blocks: list[_Block]) -> list[_Block]:
    """Items that are the clauses of one sentence (`a;`, `b; and`, `c.`) as one item."""
    found: list[_Block] = []
    for block in blocks:
        if block.kind == "item" and found and found[-1].kind == "item" and _CLAUSE_END.search(found[-1].text):
            found[-1] = _Block("item", f"{found[-1].text} {block.text}")
        else:
            found.append(block)
    return found


def _is_kept(block: _Block, options: TextOptions) -> bool:
    if not block.text or block.kind == "hatnote":
        return False
    if block.kind == "heading":
        return options.headings
    if block.kind in ("item", "term"):
        return options.lists == "keep" or (
            options.lists == "sentences" and is_prose(block.text)
        )
    return any(character.isalnum() for character in block.text)


def _without_empty_headings(blocks: list[_Block]) -> list[_Block]:
    """A heading stays where text follows before the next heading of its level or above."""
    kept: list[_Block] = []
    for block in reversed(blocks):
        if block.kind != "heading" or (kept and (kept[-1].kind != "heading" or kept[-1].level > block.level)):
            kept.append(block)
    return kept[::-1]
