"""Bytes of a MediaWiki dump -> its pages, one at a time, however long the dump is and however broken.

Inside of a page's text `<` is written `&lt;`, so `<page>` and `</page>` are tags wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from data_prep.wiki.files import Chunk
from data_prep.wiki.sites import unescaped

_BEGIN, _END, _LAST = b"<page>", b"</page>", b"</mediawiki"
_HEAD = 4096
"""Bytes of a page that is not read that are looked at for its title."""

TOO_LARGE, NO_END, NOT_XML, LOST = "too_large", "page_without_end", "page_not_xml", "lost_bytes"
"""What may be wrong: a page above the limit (no damage), one that another follows or nothing, one that is no XML, bytes
that cannot be decompressed."""



@dataclass(frozen=True)
class Page:
    """One page, its last revision."""

    title: str
    id: str
    namespace: int
    model: str
    is_redirect: bool
    revision: str
    text: str


@dataclass(frozen=True)
class Flaw:
    """A page, or some bytes, that cannot be taken."""

    kind: str
    """One of the names above."""
    where: str
    """Title of the page, as far as it is known, or what is said of the bytes."""
    size: int = 0
    """Bytes, as far as they were seen."""


def read_pages(chunks: Iterable[Chunk], most_bytes: int) -> Iterator[Page | Flaw]:
    """The pages that begin in the own chunks, and what is in their place where they are flawed.

    Args:
        chunks: Of a part of a dump.
        most_bytes: Longer pages are flaws; no more of a page than this and a chunk is held.
    """
    for found in _fragments(chunks, most_bytes):
        yield found if isinstance(found, Flaw) else parse_page(found)


def parse_page(data: bytes) -> Page | Flaw:
    """A page from its XML."""
    try:
        page = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        return Flaw(NOT_XML, f"{_title(data)}: {_words(data, error)}", len(data))
    revision = page.findall("revision")[-1:]
    if not revision or page.findtext("title") is None:
        return Flaw(NOT_XML, f"{_title(data)}: no title or no revision", len(data))
    namespace = (page.findtext("ns") or "0").strip()
    text = revision[0].findtext("text") or ""
    return Page(
        title=page.findtext("title") or "",
        id=(page.findtext("id") or "").strip(),
        namespace=int(namespace) if namespace.lstrip("-").isdigit() else 0,
        model=revision[0].findtext("model") or "wikitext",
        is_redirect=page.find("redirect") is not None or text[:40].lstrip().upper().startswith("#REDIRECT"),
        revision=(revision[0].findtext("id") or "").strip(),
        text=text,
    )


def _fragments(chunks: Iterable[Chunk], most_bytes: int) -> Iterator[bytes | Flaw]:
    """The bytes of each page, from tag to tag."""
    reader = _Reader(chunks)
    while reader.find_begin():
        found = _read_page(reader, most_bytes)
        yield from reader.take_flaws()  # why a page has no end comes before it
        yield found
    yield from reader.take_flaws()


def _read_page(reader: _Reader, most_bytes: int) -> bytes | Flaw:
    """The page that the window begins with; the window is behind it then."""
    buffer, kept = reader.buffer, len(_END) - 1
    searched, gone = len(_BEGIN), 0
    title: str | None = None  # of a page that is too large: what was read of it is gone
    while True:
        end = buffer.find(_END, searched)
        another = buffer.find(_BEGIN, searched, end if end >= 0 else len(buffer))
        if another >= 0:
            flaw = Flaw(NO_END, title or _title(buffer), gone + another)
            reader.drop(another)
            return flaw
        stop = end + len(_END) if end >= 0 else len(buffer)
        if title is None and gone + stop > most_bytes:
            title = _title(buffer)
        if end >= 0:
            found = bytes(buffer[:stop]) if title is None else Flaw(TOO_LARGE, title, gone + stop)
            reader.drop(stop)
            return found
        searched = max(len(_BEGIN), len(buffer) - kept)
        if title is not None:
            gone += len(buffer) - kept
            reader.drop(len(buffer) - kept)
            searched = 0
        if not reader.more():
            flaw = Flaw(NO_END, reader.broken_off(title or _title(buffer)), gone + len(buffer))
            reader.drop(len(buffer))
            return flaw


class _Reader:
    """A window on the bytes, and how many of those in it are of the own part."""

    def __init__(self, chunks: Iterable[Chunk]):
        self._chunks = iter(chunks)
        self.buffer = bytearray()
        self._own: int | None = None  # bytes at the beginning of the window; None: all of it
        self._flaws: list[Flaw] = []
        self._lost: str | None = None  # what is wrong with the chunk that was to follow
        self._read = 0
        self._is_over = False
        self._has_end = False

    def find_begin(self) -> bool:
        """Drop all before the next own page; False if there is none."""
        while True:
            begin = self.buffer.find(_BEGIN)
            self._has_end = self._has_end or _LAST in self.buffer
            if begin >= 0:
                self.drop(begin)
                return self._own is None or self._own > 0
            self.drop(max(0, len(self.buffer) - len(_LAST) + 1))
            if self._own is not None and self._own <= 0:
                return False
            if not self.more():
                rest = bytes(self.buffer).strip()
                is_end_of_tag = self._read < len(_LAST) and (_LAST + b">").endswith(
                    rest
                )  # a part may begin inside of it
                self.drop(len(self.buffer))
                if self._is_over:
                    if self._own is None and not (self._has_end or is_end_of_tag):
                        self._flaws.append(Flaw(LOST, f"the file ends before {_LAST.decode()}>"))
                    return False

    def more(self) -> bool:
        """Read a chunk; False if none follows what is in the window."""
        self._lost = None
        chunk = next(self._chunks, None)
        if chunk is None:
            self._is_over = True
            return False
        if not chunk.is_own and self._own is None:
            self._own = len(self.buffer)
        if chunk.lost is not None:
            self._lost = chunk.lost
            if chunk.is_own:
                self._flaws.append(Flaw(LOST, chunk.lost))
                self._has_end = True  # one loss at the end of a file is enough said
            return False
        self.buffer += chunk.data
        self._read += len(chunk.data)
        return True

    def broken_off(self, title: str) -> str:
        """What is said of a page that nothing follows; of lost bytes that they are in it."""
        if self._flaws:
            self._flaws[-1] = replace(self._flaws[-1], where=f"{self._flaws[-1].where}; in the page {title}")
        return f"{title}; {self._lost or 'the file ends in it'}"

    def drop(self, count: int) -> None:
        """Let go of bytes at the beginning."""
        del self.buffer[:count]
        if self._own is not None:
            self._own -= count

    def take_flaws(self) -> list[Flaw]:
        """Lost bytes that were met since the last time."""
        found, self._flaws = self._flaws, []
        return found


def _title(data: bytes | bytearray) -> str:
    found = re.search(rb"<title>(.*?)</title>", data[:_HEAD], re.DOTALL)
    return unescaped(found[1].decode("utf-8", "replace")) if found else "a page without title"


def _words(data: bytes, error: Exception) -> str:
    """Why a page is no XML."""
    if b"\0" in data:
        return f"NUL byte at byte {data.index(0)} of the page"
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        return f"not UTF-8 ({wrong.reason} at byte {wrong.start} of the page)"
    return f"not well-formed XML ({error})"
