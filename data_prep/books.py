"""Source `books`: plain text files, a book each. What Project Gutenberg puts around them goes.

Lines of a book are wrapped at some 70 characters and paragraphs divided by blank lines; or each line is a paragraph.
Which it is, is seen from the lines. A book is a document; or a chapter is, with the book as its group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep import files
from data_prep.documents import DataPrepError, Document, Unit
from data_prep.tally import Tally
from ofa.config import BooksConfig, SourceConfig
from ofa.files import DAMAGE, open_bytes

_START = re.compile(
    r"^\W*(?:START OF (?:THE|THIS) PROJECT GUTENBERG|\*?END\W*THE SMALL PRINT|THE SMALL PRINT! FOR PUBLIC DOMAIN)"
    r"[^\n]*\n",
    re.IGNORECASE | re.MULTILINE,
)
_STOP = re.compile(
    r"^\W*(?:END OF (?:(?:THE|THIS) )?PROJECT GUTENBERG|END OF THIS EBOOK|START: FULL LICENSE)",
    re.IGNORECASE | re.MULTILINE,
)
_FRAME_LINES = 2000
"""The header is looked for in so many lines."""
_CREDITS = re.compile(
    r"\A\s*(?:[^\n]*(?:produced by|e-?text (?:prepared|scanned|produced)|transcribed (?:from|by)|distributed proofread"
    r"|gutenberg|https?://|www\.|internet archive|transcriber['\u2019]s note)[^\n]*\n(?:[^\n]+\n)*\s*)+",
    re.IGNORECASE,
)
_PICTURE = re.compile(r"\[(?:Illustration|Frontispiece|Blank Page|Music)\b[^\[\]]{0,2000}\]", re.IGNORECASE)
_PAGE_NUMBER = re.compile(r"[\[{](?:Pg|Page|p\.)\s*\d+[\]}]", re.IGNORECASE)
_NOTE = re.compile(r"(?<=\S) ?\[(?:Footnote\b[^\[\]]{0,2000}|\d{1,3}|\*{1,3})\]")
"""Inside of a sentence: a note, or the number of one that stands elsewhere."""
_ITALICS = re.compile(r"(?<![\w_])_ ?(?=\S)([^_\n]{1,400}(?:\n[^_\n]{1,400}){0,3}?)(?<=\S)_(?![\w_])")
_PARTS = "chapter book part volume letter canto act stave"
_ALONE = "prologue epilogue preface introduction conclusion"
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred first second third fourth fifth "
    "sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth "
    "eighteenth nineteenth twentieth last"
)


def _titled(words: str) -> str:
    """Any of the words as titles have them: `Chapter`, `CHAPTER`."""
    return "(?:" + "|".join(form for word in words.split() for form in (word.title(), word.upper())) + ")"


_CHAPTER = re.compile(
    rf"(?:\A|(?<=\n)[ \t]*\n)(?=[^\n]{{0,120}}$)(?P<title>[ \t]*(?:{_titled(_PARTS)}[ \t]+(?:(?:THE|[Tt]he)[ \t]+)?"
    rf"(?:[IVXLCDM]+|\d+|{_titled(_NUMBERS)})\b[^\n]*|{_titled(_ALONE)}\.?[ \t]*))$",
    re.MULTILINE,
)
"""A line of its own with nothing before it or an empty line: what is wrapped has `part of it` at the beginning of lines
too, and a table of contents has its titles one below the other."""
_LATIN = re.compile(rb"Character set encoding: *(?:ISO-?8859-1|ISO-latin-1|(?:Windows|CP)-?1252)", re.I)
_WRAPPED = 100
"""Characters that few lines of a wrapped text exceed."""

units = files.units
versions = files.versions
times = files.times


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The books of a unit's files, in order."""
    name = files.names(files.find_files(source))
    config = source.books or BooksConfig()
    for entry in unit.inputs:
        path = Path(entry)
        counts["files"] += 1
        text = _text_of(path, source, counts)
        if text is None:
            continue
        book = strip_frame(text, counts)
        book = as_paragraphs(_without_marks(book))
        if not config.chapters:
            yield Document(name(path), book, {"chapters": sum(1 for _ in _CHAPTER.finditer(book))})
            continue
        for number, (title, chapter) in enumerate(chapters(book)):
            yield Document(f"{name(path)}:{number}", chapter, {"chapter": title}, group=name(path))


def strip_frame(text: str, counts: Tally) -> str:
    """A book without Project Gutenberg's header, licence and credits; as it is if it has none."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    head = "\n".join(text.split("\n", _FRAME_LINES)[:_FRAME_LINES])
    starts = list(_START.finditer(head + "\n"))
    if starts:
        text = text[starts[-1].end() :]
    stop = _STOP.search(text)
    if stop is not None:
        text = text[: stop.start()]
    if starts or stop is not None:
        counts["gutenberg_frames"] += 1
        text = _CREDITS.sub("", text)
    return text.strip("\n")


def _without_marks(text: str) -> str:
    """Without pictures, numbers of pages and of notes, notes inside of sentences, and the marks of italics."""
    text = _PICTURE.sub("", _PAGE_NUMBER.sub("", _ITALICS.sub(r"\1", text)))
    return _NOTE.sub("", text) if "[" in text else text


def as_paragraphs(text: str) -> str:
    """Paragraphs divided by blank lines, from wrapped lines or from a paragraph a line."""
    lines = [line for line in text.split("\n") if line.strip()]
    long = sum(len(line) > _WRAPPED for line in lines)
    is_wrapped = long < 0.1 * len(lines)
    return text if is_wrapped else "\n\n".join(line.strip() for line in lines)


def chapters(book: str) -> Iterator[tuple[str, str]]:
    """Title and text of each chapter, in order, nothing lost; what stands before the first one has no title."""
    starts = [match.start("title") for match in _CHAPTER.finditer(book)]
    places = [0, *starts, len(book)]
    for start, stop in zip(places, places[1:], strict=False):
        text = book[start:stop]
        if text.strip():
            title = text.strip().split("\n", 1)[0].strip() if start in starts else ""
            yield title, text


def _text_of(path: Path, source: SourceConfig, counts: Tally) -> str | None:
    """The file's text; Windows' Western encoding is read where it is no UTF-8, as old books have it."""
    try:
        with open_bytes(path) as file:
            data = file.read()
    except (*DAMAGE, OSError) as error:
        return _damaged(path, source, counts, f"truncated or damaged ({error})")
    if b"\0" in data:
        return _damaged(path, source, counts, f"no text: NUL byte at byte {data.index(0)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        said = f"not UTF-8 ({error.reason} at byte {error.start})"
    if _LATIN.search(data[:20_000]):
        counts["decoded_as_latin_1"] += 1
        return data.decode("cp1252", "replace")
    return _damaged(path, source, counts, said)


def _damaged(path: Path, source: SourceConfig, counts: Tally, said: str) -> None:
    if source.on_damage == "refuse":
        raise DataPrepError(
            f"{path}: {said}; mend or remove it, or set source.on_damage=skip to leave it out and count it"
        )
    counts.reject("damaged_files", str(path), said)
