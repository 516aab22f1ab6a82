"""Source `wikiextractor`: the output of that program, `wiki_00` and so on: `<doc id url title>` blocks, or JSON lines.

A line is a line of the wikitext there, most often a paragraph, the first one repeats the title, and what its author's
templates left stays: brackets with nothing in them, entities, `formula_12`, pages that a reference was to (`:12`).
"""

from __future__ import annotations

import bz2
import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep import files
from data_prep.documents import DataPrepError, Document, Unit
from data_prep.tally import Tally
from data_prep.wiki.sites import SECTIONS_WITHOUT_TEXT
from data_prep.wiki.tidy import tidy_extracted
from ofa.config import SourceConfig
from ofa.files import DAMAGE, open_bytes

_BEGIN = re.compile(r'<doc id="([^"]*)"(?: revid="[^"]*")? url="([^"]*)" title="(.*)">\s*$')
_END = "</doc>"
_TAG = re.compile(
    r"</?(?:ref|span|small|sub|sup|i|b|u|s|em|strong|font|nowiki|tt|big|ins|del|onlyinclude|noinclude|templatestyles|code"
    r"|math)\b[^<>]{0,300}>",
    re.IGNORECASE,
)
_BLOCK_TAG = re.compile(
    r"</?(?:br|div|center|blockquote|li|ul|ol|dl|dd|dt|poem|p|gallery|hr|table|tr|td|th)\b(?:[^<>]{0,300}>|[^<>]*$)",
    re.IGNORECASE,
)
"""Those that part words; the last one of a line may lack its end."""

_FORMULA = re.compile(r"(?:formula|codice)_\d+(?=([^\W\d_])?)")
_AS_OF = re.compile(r"\bs of ([^\[\]]{4,30}?)\[ ?\[update\]\]|\[ ?\[update\]\]")
"""What it makes of the template `as of`."""

_PAGES = r"\d{1,4}(?:[-\u2013]\d{1,4})?(?:, ?\d{1,4}(?:[-\u2013]\d{1,4})?)*(?:\s\u00a7\s?\d+(?:[,\u2013-]\d+)*)?"
_PAGES_CITED = re.compile(rf":(?<=[a-z.,;)\"\u201d]:){_PAGES}(?:ff?\b|:{_PAGES})*(?=[\s),.;]|$)")
_POSSESSIVE = re.compile("\u200d? ?'\u200b")
_BROKEN_OFF = re.compile(r"(?:\S+ ){5,}\S*[^\W_],?")
_TABLE_LINE = re.compile(
    r"!?(?:class|style|border|align|width|cellpadding|bgcolor|rowspan|colspan) *= *[\"'\w].*"
    r"|(?:(?:margin|padding|width|height|top|bottom|left|right|font|line|border|background|text)[a-z-]* *:[^;]{1,60};"
    r"\s*)+"
    r"|(?:\">)?em;|\">[^.]*"
)
"""Of tables and drawings."""

_MARKUP = re.compile(r"'{2,}|\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]|\{\{[^{}]*\}\}|\[\[|\]\]|\{\{|\}\}|^(?:\{\||\||! ).*$")

_WITHOUT_TEXT = frozenset(SECTIONS_WITHOUT_TEXT["en"])

units = files.units
versions = files.versions
times = files.times


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The documents of a unit's files, in order."""
    for entry in unit.inputs:
        counts["files"] += 1
        yield from _read_file(Path(entry), source, counts)


def paragraphs(text: str, title: str) -> str:
    """An article's lines as paragraphs, without its title and without what is left of markup."""
    lines = [_plain(line) for line in text.split("\n")]
    if lines and lines[0].strip() == html.unescape(title).strip():
        lines = lines[1:]
    kept: list[str] = []
    for line in filter(None, lines):
        if kept and line[0].islower() and _BROKEN_OFF.fullmatch(kept[-1]):  # one sentence on two lines
            kept[-1] += " " + line
        else:
            kept.append(line)
    return "\n\n".join(kept)


def _plain(line: str) -> str:
    line = html.unescape(line) if "&" in line else line
    line = _BLOCK_TAG.sub(" ", _TAG.sub("", line)).strip() if "<" in line else line
    if line.rstrip(". ").lower() in _WITHOUT_TEXT or _TABLE_LINE.fullmatch(line.strip()):
        return ""
    line = _FORMULA.sub(lambda match: "formula " if match[1] else "formula", line)
    line = _AS_OF.sub(lambda match: f"As of {match[1]}" if match[1] else "", line) if "update]]" in line else line
    line = _PAGES_CITED.sub("", line) if ":" in line else line
    line = _POSSESSIVE.sub("'", line).replace("\u200b", "") if "\u200b" in line else line
    return tidy_extracted(_MARKUP.sub(lambda match: match[1] or "", line)).strip()


def _read_file(path: Path, source: SourceConfig, counts: Tally) -> Iterator[Document]:
    open_block: tuple[str, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(_lines(path, source, counts), start=1):
        where = f"{path}, line {number}"
        begins = _BEGIN.match(line) if line.startswith("<doc ") else None
        if begins is not None or (open_block is None and line.startswith("{")):
            if open_block is not None:
                _damaged(source, counts, f"{where}: <doc> inside of {open_block[2]}, whose </doc> is missing", lines)
            open_block, lines = None, []
        if begins is not None:
            open_block = (begins[1], begins[2], html.unescape(begins[3]))
        elif open_block is not None and line.startswith(_END):
            yield _document(*open_block, "".join(lines))
            open_block, lines = None, []
        elif open_block is not None:
            lines.append(line)
        elif line.startswith("{"):
            yield from _of_json(line, where, source, counts)
        elif line.strip():
            _damaged(source, counts, f"{where}: neither <doc ...> nor a JSON object", [line])
    if open_block is not None:
        _damaged(source, counts, f"{path}: ends inside of {open_block[2]}, whose </doc> is missing", lines)


def _document(identifier: str, url: str, title: str, text: str) -> Document:
    return Document(identifier, paragraphs(text, title), {"title": title, "url": url})


def _of_json(line: str, where: str, source: SourceConfig, counts: Tally) -> Iterator[Document]:
    try:
        record: Any = json.loads(line)
        yield _document(str(record["id"]), str(record.get("url", "")), str(record.get("title", "")), record["text"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        _damaged(source, counts, f"{where}: no JSON object with id and text ({error})", [line])


def _lines(path: Path, source: SourceConfig, counts: Tally) -> Iterable[str]:
    """Decoded lines; bytes that are no UTF-8 are refused, or replaced and counted with their line."""
    try:
        with bz2.open(path, "rb") if path.suffix == ".bz2" else open_bytes(path) as file:
            for number, data in enumerate(file, start=1):
                try:
                    yield data.decode()
                except UnicodeDecodeError as error:
                    _damaged(source, counts, f"{path}, line {number}: not UTF-8 ({error.reason})", [repr(data)])
                    yield data.decode("utf-8", "replace")
    except (*DAMAGE, OSError) as error:
        _damaged(source, counts, f"{path}: truncated or damaged ({error})", [])


def _damaged(source: SourceConfig, counts: Tally, said: str, lines: list[str]) -> None:
    if source.on_damage == "refuse":
        raise DataPrepError(f"{said}; extract it again, or set source.on_damage=skip to leave it out and count it")
    counts.reject("damaged_parts", said, "".join(lines))
