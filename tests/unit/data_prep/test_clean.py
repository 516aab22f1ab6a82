"""Cleaning and its counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean import clean, share_of
from data_prep.tally import Tally
from ofa.config import CleanConfig


def test_white_space_is_made_plain_and_paragraphs_stay():
    text = "  A\tb\u00a0 c \r\n\n\n\n d\x00e\n"
    assert clean(text, CleanConfig(), Tally()) == "A b c\n\nde"


@given(st.text(max_size=40) | st.text(alphabet="ab \n\r\t\x0b\x1c\x85\u00a0\u2003\u2028\ufeff\ufffd\x7f", max_size=40))
def test_what_is_left_is_plain_and_cleaning_it_again_changes_nothing(text):
    cleaned = clean(text, CleanConfig(), Tally()) or "nothing"
    assert "".join(cleaned.split()) == "".join(cleaned.replace(" ", "").split("\n"))  # no other white space
    assert not {"  ", " \n", "\n ", "\n\n\n", "\x1c", "\x7f", "\ufeff", "\ufffd"} & {*substrings(cleaned)}
    assert clean(cleaned, CleanConfig(), Tally()) == cleaned


def substrings(text):
    """All of one to three characters."""
    return (text[start : start + length] for start in range(len(text)) for length in (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "reason"), [(" \n\t", "dropped_empty"), ("abc", "dropped_short"), ("abc " * 9, "dropped_long")]
)
def test_every_dropped_document_is_counted_by_its_reason(text, reason):
    counts = Tally()
    assert clean(text, CleanConfig(min_characters=5, max_characters=20), counts) is None
    assert counts == {"documents_read": 1, reason: 1}


def test_doctest_and_rule_lines_go_only_when_asked():
    text = "Title\n=====\nSee ... and a-b --- here.\n\n    >>> f(1)\n    ... more\n    2\n...\n-----------\nEnd"
    counts = Tally()
    cleaned = clean(text, CleanConfig(drop_code_lines=True), counts)
    assert cleaned == "Title\nSee ... and a-b --- here.\n\n2\nEnd"
    assert counts["code_lines_dropped"] == 5
    assert ">>> f(1)" in (clean(text, CleanConfig(), Tally()) or "")


def test_shares_are_uniform_and_fixed():
    shares = [share_of(f"42:{number}") for number in range(4000)]
    assert abs(sum(share < 0.05 for share in shares) - 200) < 50
    assert share_of("42:a") == share_of("42:a")
