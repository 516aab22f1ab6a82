"""Sentence splitting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sentences import split_by_rule, splitter


@pytest.mark.parametrize(
    "sentences",
    [
        ["He paid 3.50 dollars.", "Then he left."],
        ["Dr. Smith and Mrs. Jones came.", "They sat."],
        ["J. R. R. Tolkien wrote it in the U.S. Army."],
        ["It is used, e.g. in Fig. 3 and vol. 2, i.e. twice.", "Yes."],
        ["Is it so?", "No.", "It is not!", "Well..."],
        ['"Why?" she asked.', '"Because."'],
        ["Wait... what?", "(Nothing.)", "Go on..."],
        ['He said: "Stop."', "Then he went."],
        ["Apples, pears, etc. are fruit."],
        ["Meet on Jan. 5 at no. 7.", "Bring etc.", "Fine"],
        ["It was I.", "So be it."],
        ["see torch.nn.Linear for more.", "`x` is 1."],
        ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01", "\u597d"],
        ["\u00c9tienne vint.", "\u00c9mile aussi."],
    ],
    ids=lambda sentences: sentences[0],
)
def test_rules_find_the_sentences(sentences):
    wide = any(ord(character) > 0x3000 for character in sentences[0])
    assert split_by_rule(("" if wide else " ").join(sentences)) == sentences


def test_a_blank_line_ends_a_sentence_and_a_line_break_does_not():
    assert split_by_rule("A heading\n\nSome text\ngoes on. More") == ["A heading", "Some text goes on.", "More"]


@given(st.text(alphabet="aB.!?\"') (\n\u3002\u20265", max_size=60))
def test_no_character_is_lost(text):
    sentences = split_by_rule(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() and sentence for sentence in sentences)


def test_none_takes_the_document_as_one_sentence():
    assert splitter("none")("One. Two.\n\nThree.") == ["One. Two. Three."]
    assert splitter("none")(" \n") == []


def test_nupunkt_splits_too():
    pytest.importorskip("nupunkt", reason="the extra nupunkt is not installed")
    assert splitter("nupunkt")("He came at noon. She left.\n\nA heading") == [
        "He came at noon.",
        "She left.",
        "A heading",
    ]
