"""Inline markup of one paragraph -> plain text, by mwparserfromhell; holes are marked for `data_prep.wiki.tidy`."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from data_prep.wiki import templates
from data_prep.wiki.formulas import WORD, formula
from data_prep.wiki.prune import HELD, HOLE
from data_prep.wiki.silent import count_missed

LONGEST = 20_000
"""Characters that are parsed at once: the parser's time may grow with the square of them. Hardly a paragraph of prose
is as long; one that is, is cut where a word ends outside of brackets."""

_MARKUP = re.compile(r"[\[<{&]|''|__|://")
_PIPE_TRICK = re.compile(r"^[^:]*:|\s*\([^()]*\)$|,.*$")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
_SWITCHES = """
    NOTOC FORCETOC TOC NOEDITSECTION NEWSECTIONLINK NONEWSECTIONLINK NOGALLERY HIDDENCAT EXPECTUNUSEDCATEGORY
    EXPECTUNUSEDTEMPLATE NOCONTENTCONVERT NOCC NOTITLECONVERT NOTC INDEX NOINDEX STATICREDIRECT DISAMBIG ARCHIVEDTALK
    NOTALK EXPECTED_UNCONNECTED_PAGE NOGLOBAL
    KEIN_INHALTSVERZEICHNIS INHALTSVERZEICHNIS INHALTSVERZEICHNIS_ERZWINGEN ABSCHNITTE_NICHT_BEARBEITEN KEINE_GALERIE
    NEUER_ABSCHNITTSLINK VERSTECKTE_KATEGORIE
    AUCUNSOMMAIRE SOMMAIRE FORCERSOMMAIRE SECTIONNONEDITABLE AUCUNEGALERIE AUCUNINDEX
"""
MAGIC_WORD = rf"__(?:{'|'.join(_SWITCHES.split())})__"
"""MediaWiki's switches, also under their German and French names; `__FILE__` is text."""

_LEFT = re.compile(r"</?[a-zA-Z][^<>]{0,300}>|'{2,}|\[\[|\]\]|\{\{+|\}\}+|\{\||\|\}|" + MAGIC_WORD)
_BRACKET_OR_SPACE = re.compile(r" |\[\[|\{\{|\]\]|\}\}|\[|\]")
_CELLS = ("td", "th", "tr", "caption")
"""Outside of a table that is closed, they are all that parts two words."""
_CHEMICAL = re.compile(r"[_^{}]")
_TEX_SPACES = ("~", "\\ ", "\\quad")
"""Not the narrow ones, which many put there for another rendering of the formula."""


def plain(text: str, language: str, counts: Counter[str]) -> str:
    """The text that a reader sees, without line structure.

    Args:
        text: A paragraph of pruned wikitext.
        language: Of the wiki, which says what its templates are.
        counts: `unparsed_paragraphs` and `leftover_markup` are added to, and templates that are known and showed
            nothing for their values.
    """
    if not _MARKUP.search(text):
        return text
    found = "".join(_parsed(part, language, counts) for part in (_parts(text) if len(text) > LONGEST else (text,)))
    found, left = _LEFT.subn("", found)
    counts["leftover_markup"] += left
    return _ENTITY.sub(lambda match: html.unescape(match.group()), found) if "&" in found else found


def _parts(text: str) -> Iterator[str]:
    """The text in pieces of at most `LONGEST` characters."""
    start, depth, last = 0, 0, 0
    for match in _BRACKET_OR_SPACE.finditer(text):
        while match.end() - start > LONGEST:
            stop = last if last > start else start + LONGEST
            yield text[start:stop]
            start = stop
            depth = 0 if stop != last else depth
        if match.group() == " ":
            last = match.end() if depth == 0 else last
        else:
            depth = max(0, depth + (1 if match.group() in "[[{{" else -1))
    yield from (text[begin : begin + LONGEST] for begin in range(start, len(text), LONGEST))


def _parsed(text: str, language: str, counts: Counter[str]) -> str:
    import mwparserfromhell  # an extra

    try:
        return _Reader(language, counts).render(mwparserfromhell.parse(text, skip_style_tags="''" not in text))
    except (mwparserfromhell.parser.ParserError, RecursionError):
        counts["unparsed_paragraphs"] += 1
        return text


class _Reader:
    """Nodes of the parser -> their text; of a comment, and of what is not known, nothing."""

    def __init__(self, language: str, counts: Counter[str]):
        self._language, self._counts = language, counts
        self._nodes: dict[str, Callable[[Any], str]] = {
            "Text": lambda node: node.value,
            "Wikilink": self._wikilink,
            "ExternalLink": self._external_link,
            "HTMLEntity": lambda node: node.normalize(),
            "Heading": lambda node: self.render(node.title),
            "Argument": lambda node: HOLE if node.default is None else self.render(node.default),
            "Template": self._template,
            "Tag": self._tag,
        }

    def render(self, code: Any) -> str:
        """The text of all nodes of some wikitext."""
        return "".join([self._nodes.get(type(node).__name__, _nothing)(node) for node in code.nodes])

    def _wikilink(self, node: Any) -> str:
        if node.text is None:
            return self.render(node.title).lstrip(":")
        shown = self.render(node.text)
        if shown.strip():
            return shown
        return _PIPE_TRICK.sub("", self.render(node.title)).strip()

    def _external_link(self, node: Any) -> str:
        if not node.brackets:
            return str(node.url)
        return HOLE if node.title is None else self.render(node.title).strip()

    def _template(self, node: Any) -> str:
        positional: list[str] = []
        named: dict[str, str] = {}
        for parameter in node.params:
            value = self.render(parameter.value)
            name = str(parameter.name).replace(HELD, " ").strip()
            if not parameter.showkey or (name.isdigit() and int(name) == len(positional) + 1):
                positional.append(value)
            else:
                named[name.lower()] = value
        name = str(node.name).replace(HELD, " ")
        found = templates.text_of(name, positional, named, self._language)
        if found == "" and any(value.strip(f" {HOLE}{HELD}") for value in (*positional, *named.values())):
            count_missed(name, self._counts)
        return found or HOLE

    def _tag(self, node: Any) -> str:
        name = str(node.tag).strip().lower()
        if name == "br":
            return "\n"
        if name in ("math", "ce", "chem"):
            return _formula(name, str(node.contents))
        if name == "nowiki":
            return str(node.contents)
        if name in ("li", "dd", "dt", "hr", "wbr", "img", "link", "meta") or node.contents is None:
            return ""
        inside = self.render(node.contents)
        return f" {inside} " if name in _CELLS else inside


def _nothing(node: Any) -> str:
    return ""


def _formula(name: str, source: str) -> str:
    """Parted from a word that stands beside it (`nth`) where TeX has a space there, or the formula is but a word."""
    if name != "math":
        return _CHEMICAL.sub("", source).strip()
    source = source.strip()
    found = formula(source)
    before = found == WORD or source.startswith(_TEX_SPACES)
    after = found == WORD or source.endswith(_TEX_SPACES)
    return (HOLE if before else "") + found + (HOLE if after else "")
