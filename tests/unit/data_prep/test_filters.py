"""Filters, Unicode forms, boilerplate, and the sample of what was dropped."""

import itertools
import json
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean import clean
from data_prep.filters import FILTERS, reason_to_drop
from data_prep.languages import LANGUAGES, is_in_language
from data_prep.tally import Tally, joined_rejects
from ofa.config import CleanConfig

ENGLISH = (
    "The house that stood on the hill was sold by the family in the spring, and it has been empty ever since then. "
)
GERMAN = (
    "Das Haus auf dem H\u00fcgel wurde im Fr\u00fchling von der Familie verkauft und steht seit langem leer. "
)
FRENCH = "La maison qui se trouve sur la colline a \u00e9t\u00e9 vendue par la famille et est vide depuis. "
RUSSIAN = (
    "\u0414\u043e\u043c \u0445\u043e\u043b\u043c\u0435 \u0431\u044b\u043b \u043f\u0440\u043e\u0434\u0430\u043d. "
    * 20
)
DATA = Path(os.environ.get("OFA_TEST_DATA", ""), "wiki_en_2015.dev60.jsonl.xz")


@pytest.mark.parametrize(
    ("values", "text", "reason"),
    [
        ({"min_characters": 9}, "a b", "dropped_short"),
        ({"max_characters": 2}, "a b", "dropped_long"),
        ({"min_words": 3}, "a b", "dropped_few_words"),
        ({"max_repeated_lines": 0.4}, "a\nb\na\na", "dropped_repetitive"),
        ({"max_symbol_share": 0.4}, "a ### +++ ===", "dropped_symbols"),
        ({"language": "en"}, GERMAN * 2, "dropped_language"),
        ({"language": "en"}, RUSSIAN, "dropped_language"),
    ],
)
def test_a_filter_drops_what_it_is_for_and_nothing_unasked(values, text, reason):
    counts = Tally(sample=2)
    assert clean(text, CleanConfig(**{"min_characters": 0, **values}), counts, "x") is None
    assert counts == {"documents_read": 1, reason: 1}
    assert [(one["reason"], one["id"], one["text"]) for one in counts.rejects] == [(reason, "x", text.strip()[:600])]
    assert reason_to_drop(text, CleanConfig(min_characters=0)) is None


def test_every_filter_has_a_reason_of_its_own():
    assert len({one.reason for one in FILTERS}) == len(FILTERS)


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (FRENCH, "fr")])
def test_a_language_is_told_by_its_function_words(text, language):
    assert [one for one in LANGUAGES if is_in_language(text * 2, one)] == [language]


def test_what_is_too_short_to_tell_stays():
    assert is_in_language("Berlin", "en") and is_in_language("1234 " * 100, "en")


@pytest.mark.skipif(not DATA.is_file(), reason="OFA_TEST_DATA has no articles")
def test_real_articles_are_english():
    with lzma.open(DATA, "rt") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, 300)]
    assert sum(is_in_language(text, "en") for text in texts) == 300


def test_unicode_is_put_in_the_form_that_is_asked():
    text = "cafe\u0301 \ufb01ne"
    assert clean(text, CleanConfig(), Tally()) == text
    assert clean(text, CleanConfig(unicode="NFC"), Tally()) == "caf\u00e9 \ufb01ne"
    assert clean(text, CleanConfig(unicode="NFKC"), Tally()) == "caf\u00e9 fine"


def test_lines_of_web_pages_go_only_when_asked():
    text = "A text.\nThis site uses cookies to improve it.\nAll rights reserved.\nThe king reserved all rights."
    counts = Tally()
    assert clean(text, CleanConfig(drop_boilerplate_lines=True), counts) == "A text.\nThe king reserved all rights."
    assert counts["boilerplate_lines_dropped"] == 2 and clean(text, CleanConfig(), Tally()) == text


def test_nul_and_undecodable_bytes_are_counted_and_removed():
    counts = Tally()
    assert [clean(text, CleanConfig(), counts) for text in ("a\0b", "c\ufffdd", "e")] == ["ab", "cd", "e"]
    assert counts["documents_with_nul"] == counts["documents_with_undecodable_bytes"] == 1


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3)), unique=True, max_size=30),
    st.integers(1, 5),
    st.data(),
)
def test_the_sample_does_not_depend_on_the_order_or_on_how_work_is_divided(rejects, size, data):
    whole = Tally(sample=size)
    for reason, identifier in rejects:
        whole.reject(reason, identifier, "text")
    parts = [Tally(sample=size) for _ in range(3)]
    for reason, identifier in data.draw(st.permutations(rejects)):
        parts[data.draw(st.integers(0, 2))].reject(reason, identifier, "text")
    assert joined_rejects([part.rejects for part in parts], size) == whole.rejects
    assert whole["a"] == sum(reason == "a" for reason, _ in rejects)
    assert sum(one["reason"] == "a" for one in whole.rejects) == min(size, whole["a"])
