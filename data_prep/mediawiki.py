"""Source `mediawiki`: XML dumps of a wiki (`pages-articles*.xml`, plain or packed), pages to plain text.

A document is an article; redirects, disambiguations and pages of other namespaces are counted and left out. A damaged
dump stops the preparation, or by `source.on_damage` is read past the damage with every loss counted; a file that is no
dump is then left out and counted.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import files
from data_prep.counts import shown_bytes
from data_prep.documents import DataPrepError, Document, Unit, batched_units
from data_prep.tally import Tally
from data_prep.wiki.files import Part, beginning, parts, read_part
from data_prep.wiki.pages import LOST, TOO_LARGE, Flaw, Page, read_pages
from data_prep.wiki.sites import Site, site_of
from data_prep.wiki.text import TextOptions, to_text
from ofa.config import SourceConfig, WikiConfig

_PACKED = (b"BZh", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ")
"""What compressed files begin with, where they cannot be decompressed."""

_FIRST_BLOCK = 32
"""Bits of a bzip2 stream before its first block."""

_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:[^{}|\n]*disambig(?!(?:uation)?[ _-](?:needed|inline))[^{}|\n]*"
    r"|dab|hndis|geodis|numberdis|mathdab|schooldis|roaddis|begriffskl\u00e4rung|homonymie|desambigua(?:ci\u00f3n|\u00e7\u00e3o)|(?:namn)?f\u00f6rgrening|disambigua|doorverwijspagina|dp|ujednoznacznienie|\u043d\u0435\u043e\u0434\u043d\u043e\u0437\u043d\u0430\u0447\u043d\u043e\u0441\u0442\u044c)\s*[|}]"
    r"|__DISAMBIG__",
    re.IGNORECASE,
)


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """Parts of the dumps; small files together."""
    check(source)
    found: list[tuple[str, int]] = []
    for path in files.find_files(source):
        size = path.stat().st_size
        ratio = 2 if path.suffix == ".xml" else 0.5  # bytes of the file for one of text
        divided = parts(path, max(1, int(shard_characters * ratio)))
        starts = [part.start // (8 if part.in_bits else 1) for part in divided]
        ends = [*starts[1:], size]
        found += [(str(part), end - start) for part, start, end in zip(divided, starts, ends, strict=True)]
    return batched_units(found, shard_characters // 2)


def check(source: SourceConfig) -> None:
    """Raise DataPrepError where a file is empty, or no dump by its beginning, or the parser is missing."""
    _check_installed()
    for path in files.find_files(source):
        if path.stat().st_size == 0:
            raise DataPrepError(f"{path}: an empty file; fetch the dump again or take it off source.paths")
        if source.on_damage == "refuse":
            _check_beginning(path)


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The articles of a unit, in order."""
    wiki = source.wiki or WikiConfig()
    counts["pages"] += 0  # said also of a dump without any
    for entry in unit.inputs:
        part = Part.parse(entry)
        if source.on_damage == "skip" and _is_left_out(part, counts):
            continue
        options = _options(wiki, _site(part.path))
        for found in read_pages(read_part(part), wiki.max_page_bytes):
            if isinstance(found, Flaw):
                _count_flaw(found, part, source, counts)
            elif _is_article(found, wiki, counts):
                text = to_text(found.text, options, counts)
                if not text.strip():
                    counts.reject("dropped_empty", found.title, found.text)
                    continue
                yield Document(found.id, text, {"title": found.title, "revision": found.revision})


def versions(source: SourceConfig) -> dict[str, Any]:
    """Names and sizes of the dumps, and what reads them."""
    import mwparserfromhell  # an extra

    return {**files.versions(source), "mwparserfromhell": mwparserfromhell.__version__}


times = files.times


def _check_beginning(path: Path) -> None:
    """Refuse what is no dump; one that is damaged is when it is read."""
    said = _no_dump(str(path))
    if said is not None:
        raise DataPrepError(
            f"{path}: {said}; fetch pages-articles*.xml.bz2, take it off source.paths, or set source.on_damage=skip to "
            "leave it out and count it"
        )


@functools.lru_cache(maxsize=64)
def _no_dump(path: str) -> str | None:
    """What a file is that is no dump; None of a dump, also of a damaged one."""
    head = beginning(Path(path))
    if b"<mediawiki" in head or b"<page>" in head or head.startswith(_PACKED):
        return None
    return f"no dump of a MediaWiki: it begins with {shown_bytes(head)}"


def _is_left_out(part: Part, counts: Tally) -> bool:
    """Whether a part is of a file that is no dump, which is counted with its first part."""
    said = _no_dump(part.path)
    is_first = part.start == (_FIRST_BLOCK if part.in_bits else 0)
    if said is not None and is_first:
        counts.reject("damaged_no_dump", part.path, said)
    return said is not None


def _is_article(page: Page, wiki: WikiConfig, counts: Tally) -> bool:
    counts["pages"] += 1
    if page.namespace not in wiki.namespaces:
        reason = "dropped_namespace"
    elif page.is_redirect:
        reason = "dropped_redirect"
    elif page.model != "wikitext":
        reason = "dropped_model"
    elif not wiki.disambiguations and _is_disambiguation(page):
        reason = "dropped_disambiguation"
    else:
        return True
    counts.reject(reason, page.title, page.text)
    return False


def _is_disambiguation(page: Page) -> bool:
    titled = page.title.endswith(("(disambiguation)", "(Begriffskl\u00e4rung)", "(homonymie)"))
    return titled or _DISAMBIGUATION.search(page.text) is not None


def _count_flaw(flaw: Flaw, part: Part, source: SourceConfig, counts: Tally) -> None:
    counts["pages"] += flaw.kind != LOST
    if flaw.kind == TOO_LARGE:
        counts.reject("dropped_page_too_large", flaw.where, f"{flaw.size} bytes")
    elif source.on_damage == "skip":
        counts.reject(f"damaged_{flaw.kind}", flaw.where, f"{part.path}: {flaw.where}")
    else:
        raise DataPrepError(
            f"{part.path}: {flaw.kind.replace('_', ' ')} ({flaw.where}); fetch the dump again, or set "
            "source.on_damage=skip to leave out what is damaged and count it"
        )


@functools.lru_cache(maxsize=64)
def _site(path: str) -> Site:
    return site_of(read_part(Part(path)))


def _options(wiki: WikiConfig, site: Site) -> TextOptions:
    sections = site.sections_without_text() if wiki.drop_sections is None else map(str.lower, wiki.drop_sections)
    prefixes = TextOptions.dropped_prefixes | site.dropped_prefixes()
    return TextOptions(wiki.headings, wiki.lists, frozenset(sections), prefixes, site.language)


def _check_installed() -> None:
    try:
        import mwparserfromhell  # noqa: F401, an extra
    except ImportError:
        raise DataPrepError("source mediawiki needs mwparserfromhell: pip install 'sparse-ofa[prep]'") from None
