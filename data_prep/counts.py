"""What the counts of a preparation say, in words: how much was read, what was kept, and what became of the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ofa.data.shards import SPLITS

Counts = Mapping[str, int]
"""By name."""

TEMPLATES = "templates_not_rendered"
TEMPLATE = "template "
"""Begins the count of each of them by its name."""

_MOST_TEMPLATES, _MOST_OF_PART = 200, 10_000
"""Names that are kept for the corpus, and for a part of it, so that those in the middle are summed whole."""

MEANINGS = {
    "dropped_short": "below min_characters",
    "dropped_long": "above max_characters",
    "dropped_empty": "nothing left after cleaning",
    "dropped_few_words": "below min_words",
    "dropped_repetitive": "above max_repeated_lines",
    "dropped_symbols": "above max_symbol_share",
    "dropped_language": "another language",
    "dropped_duplicate": "the text of an earlier document",
    "dropped_near_duplicate": "nearly the text of an earlier document",
    "dropped_by_weight": "not drawn, as the source's weight is below 1",
    "dropped_redirect": "a redirect",
    "dropped_disambiguation": "a disambiguation page",
    "dropped_namespace": "a page of another namespace",
    "dropped_model": "a page that is no wikitext",
    "dropped_page_too_large": "above max_page_bytes",
    "decoded_as_latin_1": "books in another encoding, read all the same",
    "damaged_files": "the rest of a file that cannot be read",
    "damaged_lines": "a line that is no JSON, or lacks the text",
    "damaged_no_dump": "a file that is no dump of a MediaWiki",
    "damaged_lost_bytes": "bytes of a dump that cannot be read",
    "damaged_page_not_xml": "a page that is no XML",
    "damaged_page_without_end": "a page without an end",
    "damaged_parts": "text outside of any document",
    "documents_with_nul": "kept without their NUL bytes",
    "documents_with_undecodable_bytes": "kept without the bytes that are no characters",
    "documents_without_tokens": "nothing left for the tokenizer",
    "leftover_markup": "marks that stood alone; taken out",
    TEMPLATES: "inside of sentences, and nothing is known of what they show; taken out",
    "table_lines": "rows of tables that were never closed; taken out",
    "unclosed_comments": "the rest of the page is a comment without an end; taken out, as MediaWiki does",
    "unclosed_markup": "links, templates, tables and references without an end; what stood in them was kept",
    "unparsed_paragraphs": "kept as they stood, since mwparserfromhell failed",
    "unreadable_files": "no Python that can be parsed",
}
"""What each count of things that are not as they were says; other counts are of what is there."""

_SHOWN = 80
"""Bytes of a file that an error shows."""

_BAD = ("dropped", "unreadable", "damaged", "with_nul", "with_undecodable", "leftover", "unclosed", "unparsed")
_BAD += (TEMPLATES,)
"""In names of counts that tell of a loss."""


def read_in_words(by_source: Iterable[Counts]) -> str:
    """`206 pages and 12 documents read`: pages of dumps, whatever they are; of other sources documents."""
    pages, documents = [], []
    for counts in by_source:
        (pages if "pages" in counts else documents).append(counts.get("pages", counts.get("documents_read", 0)))
    found = [counted(sum(own), what) for own, what in ((pages, "page"), (documents, "document")) if own]
    return f"{' and '.join(found)} read"


def counted(number: int, what: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def kept(counts: Counts) -> int:
    """Documents of both halves."""
    return sum(counts.get(f"{split}_documents", 0) for split in SPLITS)


def losses_in_words(counts: Counts) -> list[str]:
    """`dropped redirect 3` for each count of a loss."""
    bad = {name: number for name, number in counts.items() if number and any(word in name for word in _BAD)}
    return [f"{name.replace('_', ' ')} {number:,}" for name, number in bad.items()]


def shown_bytes(data: bytes) -> str:
    """The beginning of a file, as an error shows it."""
    return repr(" ".join(data[:_SHOWN].decode("utf-8", "backslashreplace").split()))


def parted(counts: Counts) -> tuple[dict[str, int], dict[str, int]]:
    """Counts proper, and the most frequent templates that were not rendered, by name."""
    found = {name.removeprefix(TEMPLATE): number for name, number in counts.items() if name.startswith(TEMPLATE)}
    numbers = {name: number for name, number in counts.items() if not name.startswith(TEMPLATE)}
    return numbers, most_frequent(found, _MOST_OF_PART)


def most_frequent(found: Counts, most: int = _MOST_TEMPLATES) -> dict[str, int]:
    """Of these the first, by number and name."""
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0]))[:most])
