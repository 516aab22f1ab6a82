"""Wikitext -> wikitext without what leaves no text: comments, references, tables, files, categories, most templates.

One pass with a stack, linear in the length and without a clock: what makes a parser slow (openers that nothing closes,
tables of a megabyte) is gone before `data_prep.wiki.inline` parses a paragraph. Where something was cut inside a line
stands `HOLE`, for `data_prep.wiki.tidy` to mend what it leaves; line breaks inside of what is kept and may not be torn
apart are `HELD`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from data_prep.wiki.silent import count_missed

HOLE, HELD = "\x02", "\x03"
"""Neither is a character of XML, so no dump has them."""

CODE = frozenset(["pre", "source", "syntaxhighlight", "score", "timeline", "graph", "hiero"])
"""Tags whose inside is a program or a drawing."""

_CUT = CODE | frozenset(
    ("ref", "references", "gallery", "imagemap", "inputbox", "templatedata", "categorytree", "includeonly")
)
_RAW = frozenset(["nowiki", "math", "chem", "ce"])
"""Tags whose inside is no wikitext and stays."""

_TOKEN = re.compile(r"<!--|</?[A-Za-z]+|\{\{\{(?!\{)|\{\{|\{\||\}\}|\[\[|\]\]|\|\}(?!\})")
_OPENER = {"}}": "{{", "]]": "[[", "|}": "{|", "</table": "<table"}
_TAG_END = re.compile(r"[^<>]*>")
_LINK_TARGET = re.compile(r"\s*([^|\[\]{}]*)")
_REFERENCE = re.compile(r"<ref(?:\s[^<>]*)?(?<!/)>", re.IGNORECASE)
_INDENTATION = 60
"""Characters before a table's brace that are looked at."""
_TEMPLATE_NAME = re.compile(r"\s*([^|{}\n]*)")

_NO_WORDS = re.compile(r"\{\{[^{}]*\}\}|<ref\b.*?(?:/>|</ref>)|<!--.*?-->")
_WORDS = re.compile(r"\w+\W+\w")
_NEAR = 200
"""Characters of the line, on either side of a template, that are looked at; a page may be one line of templates."""

Span = tuple[int, int]


def prune(
    text: str, keeps_template: Callable[[str], bool], keeps_link: Callable[[str], bool], counts: Counter[str]
) -> str:
    """Cut out what leaves no text.

    Args:
        text: Of a page.
        keeps_template: Whether a template, by its name, leaves text.
        keeps_link: Whether a link, by its target, leaves text.
        counts: `unclosed_markup` is added to, and `unclosed_comments`, after which the rest of the page is comment; by
            name the templates that were cut inside of sentences and that these miss.
    """
    text = text.replace(HOLE, "").replace(HELD, "")
    pass_ = _Pass(text, keeps_template, keeps_link)
    pass_.run()
    result = pass_.result()
    counts.update(pass_.counts)
    return result


class _Pass:
    """Finds what to cut and what to hold together."""

    def __init__(self, text: str, keeps_template: Callable[[str], bool], keeps_link: Callable[[str], bool]):
        self._text = text
        self._keeps_template, self._keeps_link = keeps_template, keeps_link
        self.counts: Counter[str] = Counter()
        self._stack: list[tuple[str, int]] = []
        self._open_now: Counter[str] = Counter()
        self._cuts: list[tuple[int, int, str]] = []
        self._held: list[Span] = []
        self._closers: dict[str, Span | None] = {}

    def run(self) -> None:
        """Read all of the text once."""
        place = 0
        while (match := _TOKEN.search(self._text, place)) is not None:
            token = match.group()
            if token == "<!--":
                place = self._comment(match.start())
            elif token[0] == "<":
                place = self._tag(token.lower(), match.start(), match.end())
            elif token in _OPENER:
                place = self._close(token, match.start(), match.end())
            else:
                place = self._open(token, match.start(), match.end())
        self._cut_openers(self._stack)

    def result(self) -> str:
        """The text without what was cut, outermost cuts first."""
        text = self._with_held_lines()
        parts, done = [], 0
        for start, stop, left in sorted(self._cuts, key=lambda cut: (cut[0], -cut[1])):
            if stop > done:
                if start >= done:
                    parts += [text[done:start], left]
                    self._count_template(start, stop)
                done = stop
        return "".join([*parts, text[done:]])

    def _count_template(self, start: int, stop: int) -> None:
        """Count what was cut, by its name, if it is a template with other words in its line."""
        text = self._text
        is_template = text.startswith("{{", start) and text.endswith("}}", start, stop)
        if not is_template or text.startswith("{{{", start):
            return
        before = text[max(0, start - _NEAR) : start].rpartition("\n")[2]
        after = text[stop : stop + _NEAR].partition("\n")[0]
        line = f"{before} {after}"
        if line.lstrip().startswith(("|", "!")) or not _WORDS.search(_NO_WORDS.sub("", line)):
            return
        name = _TEMPLATE_NAME.match(text, start + 2)
        if name is not None:
            count_missed(name[1], self.counts)

    def _with_held_lines(self) -> str:
        parts, done = [], 0
        for start, stop in sorted(self._held):
            if start >= done:
                parts += [self._text[done:start], self._text[start:stop].replace("\n", HELD)]
                done = stop
        return "".join([*parts, self._text[done:]])

    def _comment(self, start: int) -> int:
        """A comment that has a line for itself goes with the line, as in MediaWiki; one without end is the rest."""
        end = self._text.find("-->", start)
        stop = len(self._text) if end < 0 else end + 3
        if end < 0:
            self.counts["unclosed_comments"] += 1
        begins_line = start == 0 or self._text[start - 1] == "\n"
        if begins_line and self._text[stop : stop + 1] == "\n":
            stop += 1
        self._cuts.append((start, stop, ""))
        return stop

    def _tag(self, token: str, start: int, place: int) -> int:
        name = token.strip("</")
        if name == "table":
            return self._table_tag(token, start, place)
        end = _TAG_END.match(self._text, place)
        if name not in _CUT and name not in _RAW:
            if end is None:  # no tag, and a parser that takes it for one searches to the end of the text
                self._cuts.append((start, start + 1, "&lt;"))
            return place
        if end is None or token[1] == "/":  # half a tag, or the end of nothing
            self._cuts.append((start, end.end() if end else place, ""))
            return end.end() if end else place
        if self._text[end.end() - 2] == "/":
            self._cuts.append((start, end.end(), HOLE))
            return end.end()
        closer = self._closer(name, end.end())
        if closer is None:
            self.counts["unclosed_markup"] += 1
            self._cuts.append((start, end.end(), HOLE if name == "ref" else ""))
            return end.end()
        if name in _CUT:
            self._cuts.append((start, closer[1], HOLE))
        elif "\n" in self._text[start : closer[1]]:
            self._held.append((start, closer[1]))
        return closer[1]

    def _closer(self, name: str, place: int) -> Span | None:
        """Where the end tag stands; None where there is none, or where another reference begins before it."""
        known = self._closers.get(name, (-1, -1))
        if known is not None and known[0] < place:
            found = re.compile(f"</{name}\\s*>", re.IGNORECASE).search(self._text, place)
            known = self._closers[name] = found and found.span()
        if known is not None and name == "ref" and _REFERENCE.search(self._text, place, known[0]) is not None:
            return None
        return known

    def _table_tag(self, token: str, start: int, place: int) -> int:
        end = _TAG_END.match(self._text, place)
        if end is None:
            return place
        return (self._close if token[1] == "/" else self._open)(token, start, end.end())

    def _open(self, token: str, start: int, place: int) -> int:
        if token != "{|" or self._begins_line(start):
            self._stack.append((token, start))
            self._open_now[token] += 1
        return place

    def _begins_line(self, start: int) -> bool:
        """Whether nothing but white space and indentation is before it in its line."""
        before = self._text[max(0, start - _INDENTATION) : start].rpartition("\n")
        return not before[2].strip(" \t:") and (bool(before[1]) or start <= _INDENTATION)

    def _close(self, token: str, start: int, stop: int) -> int:
        if token == "|}" and not self._begins_line(start):
            return start + 1
        if token == "}}" and self._stack and self._stack[-1][0] == "{{{" and self._text[start : start + 3] == "}}}":
            self._open_now["{{{"] -= 1
            self._cuts.append((self._stack.pop()[1], start + 3, HOLE))
            return start + 3
        opened = self._opener(_OPENER[token])
        if opened is None:
            if token != "|}":
                self._cuts.append((start, stop, ""))
            return stop
        if self._keeps(token, opened):
            if "\n" in self._text[opened:stop]:
                self._held.append((opened, stop))
        else:
            self._cuts.append((opened, stop, HOLE))
        return stop

    def _opener(self, kind: str) -> int | None:
        """Take the nearest opener of a kind off the stack, and those above it that nothing closed."""
        if kind == "[[":  # a link ends before what it stands in does
            return self._stack.pop()[1] if self._stack and self._stack[-1][0] == kind else None
        if not self._open_now[kind]:
            return None
        lost = []
        while self._stack[-1][0] != kind:
            lost.append(self._stack.pop())
        self._cut_openers(lost)
        self._open_now.subtract(name for name, _ in [*lost, self._stack[-1]])
        return self._stack.pop()[1]

    def _cut_openers(self, openers: list[tuple[str, int]]) -> None:
        """Braces and brackets that nothing closes; a table without end is left to those who read its lines."""
        self.counts["unclosed_markup"] += len(openers)
        self._cuts += [(start, self._end_of(kind, start), "") for kind, start in openers if kind in ("{{", "{{{", "[[")]

    def _end_of(self, kind: str, start: int) -> int:
        """Of an opener's marks, and of a template's name that has the rest of its line."""
        name = _TEMPLATE_NAME.match(self._text, start + 2) if kind == "{{" else None
        has_line = name is not None and self._text[name.end() : name.end() + 1] == "\n"
        return name.end() if name is not None and has_line else start + len(kind)

    def _keeps(self, token: str, start: int) -> bool:
        if token == "}}":
            name = _TEMPLATE_NAME.match(self._text, start + 2)
            return name is not None and self._keeps_template(name[1])
        if token == "]]":
            target = _LINK_TARGET.match(self._text, start + 2)
            return target is not None and self._keeps_link(target[1])
        return False
