"""Books as a source."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import sources
from data_prep.books import as_paragraphs, chapters, strip_frame
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from ofa.config import BooksConfig, SourceConfig

BOOK = """CHAPTER I.
THE FIRST

It was a dark and stormy night, the rain fell in _torrents_, except at
occasional intervals.

[Illustration: The rain]

CHAPTER II

It rained on.[Pg 12]
"""

NEW = (
    """\ufeffThe Project Gutenberg EBook of A Book, by Nobody

This eBook is for the use of anyone anywhere.

Character set encoding: UTF-8

*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***

Produced by Some People and the Online Distributed
Proofreading Team at https://www.pgdp.net


"""
    + BOOK
    + """

End of the Project Gutenberg EBook of A Book, by Nobody

*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***

***** This file should be named 1-0.txt *****
Section 1. General Terms of Use
"""
)

OLD = (
    """The Project Gutenberg Etext of A Book

*START*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*START*
Why is this "Small Print!" statement here?
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*

"""
    + BOOK
    + """
End of Project Gutenberg's A Book
"""
)


def documents(folder, counts=None, **values):
    """All documents of a folder."""
    source = SourceConfig(kind="books", paths=[str(folder)], **values)
    counts = Tally(sample=3) if counts is None else counts
    return [one for unit in sources.units(source, 10**6) for one in sources.read(source, unit, counts)]


@pytest.mark.parametrize("text", [NEW, OLD, NEW.replace("\n", "\r\n")], ids=["new", "old", "windows"])
def test_the_frame_of_project_gutenberg_goes(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    counts = Tally()
    (found,) = documents(tmp_path, counts)
    assert (
        found.text.split()
        == BOOK.replace("_torrents_", "torrents").replace("[Illustration: The rain]", "").replace("[Pg 12]", "").split()
    )
    assert counts["gutenberg_frames"] == 1 and found.id == "a.txt" and found.meta == {"chapters": 2}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("neither of you nesh [1] folk", "neither of you nesh folk"),
        ('"They\'m Mouzle [Footnote: Mouzle is Mousehole.] luggers, sir."', '"They\'m Mouzle luggers, sir."'),
        ("[Footnote: It stands by itself, and is prose.]", "[Footnote: It stands by itself, and is prose.]"),
        ("every bird[2], in _Paris_, or \"_ Peste!_ Why", 'every bird, in Paris, or "Peste! Why'),
        ("the Princess C____ of No. __ and [she] said", "the Princess C____ of No. __ and [she] said"),
    ],
)
def test_marks_of_notes_and_italics_go(tmp_path, text, left):
    (tmp_path / "book.txt").write_text(text)
    assert [one.text for one in documents(tmp_path)] == [left]



def test_a_book_without_a_frame_stays_as_it_is():
    counts = Tally()
    assert strip_frame(BOOK, counts) == BOOK.strip("\n") and not counts


def test_chapters_are_documents_of_one_group_on_request(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(("Title page\n\n" + BOOK).encode()))
    found = documents(tmp_path, books=BooksConfig(chapters=True))
    assert [(one.id, one.meta["chapter"], one.group) for one in found] == [
        ("a.txt.gz:0", "", "a.txt.gz"),
        ("a.txt.gz:1", "CHAPTER I.", "a.txt.gz"),
        ("a.txt.gz:2", "CHAPTER II", "a.txt.gz"),
    ]


def test_a_paragraph_a_line_and_wrapped_lines_are_told_apart():
    long = "A paragraph of a novel, which goes on and on without any break for more than a hundred characters, as here."
    assert as_paragraphs(f"CHAPTER I\n{long}\n{long}\n\n{long}") == f"CHAPTER I\n\n{long}\n\n{long}\n\n{long}"
    assert as_paragraphs(BOOK) == BOOK


@given(
    st.lists(st.sampled_from(["CHAPTER I\n", "Chapter the Second\n", "text\n", "\n", "PREFACE.\n", "more. "])).map(
        "".join
    )
)
def test_chapters_lose_nothing(book):
    found = list(chapters(book))
    assert "".join(text for _, text in found).split() == book.split()
    assert all(text.strip().startswith(title) for title, text in found)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"a\0b", "NUL byte at byte 1"),
        ("a.txt.gz", gzip.compress(b"x" * 1000, mtime=0)[:-10], "truncated or damaged"),
    ],
)
def test_a_damaged_book_is_refused_by_name_or_skipped_and_counted(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "b.txt").write_text("A book.")
    with pytest.raises(DataPrepError, match=f"{name}: .*{said}"):
        documents(tmp_path)
    counts = Tally(sample=1)
    assert [one.text for one in documents(tmp_path, counts, on_damage="skip")] == ["A book."]
    assert counts["damaged_files"] == 1 and said in counts.rejects[0]["text"]


def test_an_old_book_that_says_its_encoding_is_read_in_it(tmp_path):
    text = NEW.replace("UTF-8", "ISO-8859-1").replace("night", "caf\u00e9").lstrip("\ufeff")
    (tmp_path / "a.txt").write_bytes(text.encode("latin-1"))
    counts = Tally()
    assert "caf\u00e9" in documents(tmp_path, counts)[0].text and counts["decoded_as_latin_1"] == 1


@pytest.mark.parametrize(
    "line", ["part of the country", "letter from his wife", "act as though", "Book which", "PART OF IT", "Part mild"]
)
@pytest.mark.parametrize("before", ["word after word\n", "\n"])
def test_words_at_the_beginning_of_a_line_are_no_chapter(line, before):
    assert [title for title, _ in chapters(f"CHAPTER I\n\nHe saw {before}{line} and more.\n")] == ["CHAPTER I"]


@pytest.mark.parametrize(
    "title",
    ["CHAPTER II", "Chapter 12. The River", "BOOK THE SECOND", "Part Two", "STAVE ONE", "EPILOGUE"],
)
@pytest.mark.parametrize("between", ["\n\n", "\n \t\n\n"])
def test_titles_after_an_empty_line_begin_chapters(title, between):
    book = f"CHAPTER I\n\nIt rained.{between}{title}\n\nAnd on."
    assert [found for found, _ in chapters(book)] == ["CHAPTER I", title]


def test_titles_one_below_the_other_are_a_table_of_contents():
    book = "Contents\nChapter 1\nChapter 2\n\nChapter 1\n\nIt rained.\n\nChapter 2\n\nOn."
    assert [title for title, _ in chapters(book)] == ["", "Chapter 1", "Chapter 2"]
