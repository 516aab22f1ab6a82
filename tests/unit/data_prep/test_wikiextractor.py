"""The output of WikiExtractor as a source."""

import bz2
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import sources
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from data_prep.wikiextractor import paragraphs
from ofa.config import SourceConfig

BLOCK = '<doc id="{0}" url="https://x.org/?curid={0}" title="{1}">\n{1}\n\n{2}\n\n</doc>\n'


def documents(folder, counts=None, **values):
    """All documents of a folder."""
    source = SourceConfig(kind="wikiextractor", paths=[str(folder)], **values)
    counts = Tally(sample=3) if counts is None else counts
    return [one for unit in sources.units(source, 10**6) for one in sources.read(source, unit, counts)]


def test_blocks_are_documents_and_a_line_is_a_paragraph(tmp_path):
    (tmp_path / "AA").mkdir()
    text = BLOCK.format(12, "A &amp; B", "One.\nTwo.") + BLOCK.format(13, "C", "Three.")
    (tmp_path / "AA" / "wiki_00").write_text(text.replace("A &amp; B\n\n", "A & B\n\n"))
    (tmp_path / "AA" / "wiki_01.bz2").write_bytes(bz2.compress(BLOCK.format(14, "D", "Four.").encode()))
    (tmp_path / "AA" / "notes.txt").write_text("not this")
    found = documents(tmp_path)
    assert [(one.id, one.text) for one in found] == [("12", "One.\n\nTwo."), ("13", "Three."), ("14", "Four.")]
    assert found[0].meta == {"title": "A & B", "url": "https://x.org/?curid=12"}


def test_json_lines_are_documents_too(tmp_path):
    record = {"id": "7", "url": "u", "title": "T", "text": "T\n\nOne.\nTwo."}
    (tmp_path / "AA_wiki_00").write_text(json.dumps(record) + "\n")
    (found,) = documents(tmp_path)
    assert (found.id, found.text, found.meta) == ("7", "One.\n\nTwo.", {"title": "T", "url": "u"})


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("A (; born 1900) b", "A (born 1900) b"),
        ("A () b", "A b"),
        ("Jacob() and", "Jacob and"),
        ("call f() now", "call f() now"),
        ("A (]; June 6) b", "A (June 6) b"),
        ("A (ANSI, ) is", "A (ANSI) is"),
        ("Indiana:<br>Van Buren, Indiana<br>Clay", "Indiana: Van Buren, Indiana Clay"),
        ("September 2008 <table", "September 2008"),
        ("! Office", ""),
        ('!colspan="24" class="x"', ""),
        ("margin-left:0.9em; width: 9.72em;", ""),
        ('">em;', ""),
        ('">Bust', ""),
        ("height: how tall a person is", "height: how tall a person is"),
        ("Protestant. s of 2010[ [update]], the", "Protestant. As of 2010, the"),
        ("with ASD as of 2014[ [update]], a", "with ASD as of 2014, a"),
        ("state:28 that all display,:126 and.:215, 236 \u00a7 4 The", "state that all display, and. The"),
        ("of Bevel,:267:81\u201386 on March; communities.:42ff", "of Bevel, on March; communities."),
        ("at 11:30, John 3:16 and 1:20.", "at 11:30, John 3:16 and 1:20."),
        ('"Eagle"\u200d \'\u200bs ascent', '"Eagle"\'s ascent'),
        ("the formula_5th flux formula_7formula_8", "the formula th flux formula formula"),
        ("model, , uses", "model, uses"),
        ("at , on", "at, on"),
        ("let formula_12 be", "let formula be"),
        ("a &lt;ref&gt;b &amp;amp; c", "a b &amp; c"),
        ("</dl>", ""),
        ('class="wikitable" style="x"', ""),
        ("External links.", ""),
        ("see [[A|the b]] and [[c]]{{d}}", "see the b and c"),
        ("x < y > z", "x < y > z"),
    ],
)
def test_what_the_program_leaves_of_markup_goes(line, left):
    assert paragraphs(line, "Title") == left


def test_a_sentence_on_two_lines_is_one_paragraph():
    text = "It is a consequence and the definitional\nequation of the variance is\nformula_1, where\nThe next.\nand"
    assert paragraphs(text, "Title").split("\n\n") == [
        "It is a consequence and the definitional equation of the variance is formula, where",
        "The next.",
        "and",
    ]


@given(
    st.lists(
        st.text(alphabet="ABC .,\u00c9", min_size=1).map(str.strip).filter(lambda line: line.strip(" .,")),
        max_size=5,
    )
)
def test_lines_of_prose_come_back(lines):
    lines = [" ".join(line.replace(" ,", ",").split()) for line in lines]
    lines = [line for line in lines if ",," not in line and " ," not in line]
    assert paragraphs("\n".join(["Title", "", *lines]), "Title") == "\n\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said", "left"),
    [
        (BLOCK.format(1, "A", "x")[:-8], "ends inside of A, whose </doc> is missing", []),
        (BLOCK.format(1, "A", "x")[:-8] + BLOCK.format(2, "B", "y"), "line 5: <doc> inside of A", ["y"]),
        ("stray\n" + BLOCK.format(2, "B", "y"), "line 1: neither <doc ...> nor a JSON object", ["y"]),
        ('{"id": 1\n' + BLOCK.format(2, "B", "y"), "line 1: no JSON object with id and text", ["y"]),
        ('{"id": 1}\n{"id": 2, "text": "y"}\n', "line 1: no JSON object with id and text", ["y"]),
        (BLOCK.format(2, "B", "\udcff y"), "line 4: not UTF-8", ["\ufffd y"]),
    ],
)
def test_damage_is_refused_with_its_place_or_skipped_and_counted(tmp_path, text, said, left):
    (tmp_path / "wiki_00").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataPrepError, match=f"wiki_00.*{said}"):
        documents(tmp_path)
    counts = Tally(sample=3)
    assert [one.text for one in documents(tmp_path, counts, on_damage="skip")] == left
    assert counts["damaged_parts"] == 1 and said in counts.rejects[0]["id"]


def test_a_truncated_file_is_named(tmp_path):
    path = Path(tmp_path, "wiki_00.bz2")
    path.write_bytes(bz2.compress(BLOCK.format(1, "A", "x").encode() * 100)[:-10])
    with pytest.raises(DataPrepError, match="wiki_00.bz2: truncated or damaged"):
        documents(tmp_path)
