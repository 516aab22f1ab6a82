"""Exact match and F1 against a second statement of the official rules, on hand-made cases and on the real dev file."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.downstream.squad import SquadError, normalised, score_v1, score_v2
from tests.squad_rules import oracle


def both(golds, predictions):
    """(v1.1, v2) of one question as (exact, f1)."""
    first, second = score_v1({"q": golds}, {"q": predictions}), score_v2({"q": golds}, {"q": predictions})
    return (first["exact_match"], first["f1"]), (second["exact"], second["f1"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver\tBroncos!", "denver broncos"),
        ("a.b-c", "abc"),
        ("an apple; the theatre, Athens", "apple theatre athens"),
        ("the", ""),
        ("?!", ""),
        ("a-n", ""),  # marks are deleted first, and what is left is an article
        ("\u201cthe\u201d end\u2014now", "\u201c \u201d end\u2014now"),  # typographic marks are no punctuation
        ("\u00c9TAT", "\u00e9tat"),
        ("the\u00a0end", "end"),  # white space of all kinds
        ("th\u00e9 a\u0301", "th\u00e9 \u0301"),  # a combining accent ends a word
        ("", ""),
    ],
)
def test_normalisation_by_hand(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("golds", "prediction", "v1", "v2"),
    [
        (["Denver Broncos"], "the Denver Broncos", (100, 100), (100, 100)),
        (["Denver Broncos"], "Broncos of Denver", (0, 80), (0, 80)),
        (["Denver Broncos"], "Carolina", (0, 0), (0, 0)),
        (["cat cat dog"], "cat dog dog", (0, 100 * 2 / 3), (0, 100 * 2 / 3)),
        (["x", "Denver Broncos"], "denver", (0, 100 * 2 / 3), (0, 100 * 2 / 3)),
        (["Broncos"], "", (0, 0), (0, 0)),
        # nothing left of gold and answer: the same text, and no word shared
        (["the"], "a", (100, 0), (100, 100)),
        ([""], "", (100, 0), (100, 100)),
        # v2 forgets gold answers of which nothing is left, where there is another
        (["the", "Broncos"], "an", (100, 0), (0, 0)),
    ],
)
def test_single_answers_by_hand(golds, prediction, v1, v2):
    first, second = both(golds, prediction)
    assert first == pytest.approx(v1, abs=1e-12) and second == pytest.approx(v2, abs=1e-12)


letters = st.text(alphabet="aAnNtThHeE .,'-_\u2019\u00e9\u00a0 bc", max_size=14)
cases = st.dictionaries(st.text("xyz", min_size=1), st.tuples(st.lists(letters, min_size=1, max_size=3), letters))


@given(cases.filter(bool))
def test_v1_equals_the_oracle(case):
    golds, predictions = ({key: value[side] for key, value in case.items()} for side in (0, 1))
    found = score_v1(golds, predictions)
    assert (found["exact_match"], found["f1"]) == pytest.approx(oracle(golds, predictions, False), abs=1e-9)


@given(cases.filter(bool), st.data())
def test_v2_equals_the_oracle(case, data):
    golds = {key: value[0] if data.draw(st.booleans()) else [] for key, value in case.items()}
    predictions = {key: value[1] for key, value in case.items()}
    found = score_v2(golds, predictions)
    assert (found["exact"], found["f1"]) == pytest.approx(oracle(golds, predictions, True), abs=1e-9)
    assert found["total"] == len(golds)
    for prefix, has in (("HasAns", True), ("NoAns", False)):
        part = {key: texts for key, texts in golds.items() if bool(texts) == has}
        assert found.get(f"{prefix}_total", 0) == len(part)
        if part:
            expected = oracle(part, predictions, True)
            assert (found[f"{prefix}_exact"], found[f"{prefix}_f1"]) == pytest.approx(expected, abs=1e-9)


V2_GOLDS = {"a": ["red"], "b": ["blue whale"], "c": [], "d": []}
V2_ANSWERS = {"a": "red", "b": "whale", "c": "green", "d": "grey"}
V2_ODDS = {"a": -3.0, "b": 1.0, "c": 0.5, "d": 2.0}


def test_v2_breakdown_by_hand():
    found = score_v2(V2_GOLDS, V2_ANSWERS)
    assert found == pytest.approx(
        {"exact": 25, "f1": 25 * (1 + 2 / 3), "total": 4}
        | {"HasAns_exact": 50, "HasAns_f1": 50 * (1 + 2 / 3), "HasAns_total": 2}
        | {"NoAns_exact": 0, "NoAns_f1": 0, "NoAns_total": 2}
    )


def test_a_threshold_withholds_answers_whose_odds_are_above_it():
    assert score_v2(V2_GOLDS, V2_ANSWERS, null_odds=V2_ODDS, threshold=1.0)["exact"] == 50
    assert score_v2(V2_GOLDS, V2_ANSWERS, null_odds=V2_ODDS, threshold=0.5)["HasAns_f1"] == 50
    assert score_v2(V2_GOLDS, V2_ANSWERS, null_odds=V2_ODDS, threshold=0.4)["NoAns_exact"] == 100
    assert score_v2(V2_GOLDS, V2_ANSWERS, null_odds=V2_ODDS, threshold=-4)["exact"] == 50


def test_the_best_threshold_by_hand():
    found = score_v2(V2_GOLDS, V2_ANSWERS, null_odds=V2_ODDS)
    assert (found["best_exact"], found["best_exact_thresh"]) == (75, -3.0)
    assert (found["best_f1"], found["best_f1_thresh"]) == (75, -3.0)


def test_a_right_silence_costs_nothing_in_the_search():
    found = score_v2({"a": ["red"], "b": []}, {"a": "red", "b": ""}, null_odds={"a": 1.0, "b": 0.0})
    assert (found["best_exact"], found["best_exact_thresh"]) == (100, 1.0)


def test_where_no_answer_helps_the_best_threshold_is_0():
    found = score_v2({"a": ["red"], "b": []}, {"a": "blue", "b": "x"}, null_odds={"a": 7.0, "b": 9.0})
    assert (found["best_exact"], found["best_exact_thresh"]) == (50, 0.0)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["red", "red fox", "sea", ""])), min_size=1, max_size=12),
    st.data(),
)
def test_the_best_threshold_is_the_best_of_all_thresholds(questions, data):
    """Odds are all different here; equal ones are taken one by one, as the script does."""
    order = data.draw(st.permutations(range(len(questions))))
    golds = {f"q{number}": ["red"] if has else [] for number, (has, _) in enumerate(questions)}
    answers = {f"q{number}": text for number, (_, text) in enumerate(questions)}
    odds = {f"q{number}": float(place) for number, place in enumerate(order)}
    found = score_v2(golds, answers, null_odds=odds)
    for key in ("exact", "f1"):
        tried = [
            score_v2(golds, answers, null_odds=odds, threshold=one)[key] for one in [-math.inf, *sorted(odds.values())]
        ]
        assert found[f"best_{key}"] == pytest.approx(max(tried), abs=1e-9)
        if max(tried) > tried[0] + 1e-9:
            reached = score_v2(golds, answers, null_odds=odds, threshold=found[f"best_{key}_thresh"])
            assert reached[key] == pytest.approx(max(tried), abs=1e-9)


def test_equal_odds_are_taken_one_by_one_as_the_script_does():
    golds, answers = {"a": ["red"], "b": []}, {"a": "red", "b": "blue"}
    found = score_v2(golds, answers, null_odds={"a": 1.0, "b": 1.0})
    assert (found["best_exact"], found["best_exact_thresh"]) == (100, 1.0)
    assert score_v2(golds, answers, null_odds={"a": 1.0, "b": 1.0}, threshold=1.0)["exact"] == 50


def test_questions_without_answer_only_have_no_breakdown_of_the_others():
    found = score_v2({"a": []}, {"a": ""})
    assert found["NoAns_exact"] == 100 and not any(key.startswith("HasAns") for key in found)


@pytest.mark.parametrize(
    ("golds", "predictions", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, {"a": "x"}, "predictions lack 1 of 2 questions, first b"),
        ({"a": ["x"]}, {"a": "x", "c": "y"}, "1 ids that the questions do not have, first c"),
        ({}, {}, "no question to score"),
    ],
)
def test_predictions_of_another_split_are_refused(golds, predictions, message):
    for scored in (score_v1, score_v2):
        with pytest.raises(SquadError, match=message):
            scored(golds, predictions)


def test_v1_refuses_questions_without_an_answer():
    with pytest.raises(SquadError, match="first b: such data are squad_v2's"):
        score_v1({"a": ["x"], "b": []}, {"a": "x", "b": ""})


def test_a_threshold_needs_the_odds_of_every_question():
    with pytest.raises(SquadError, match="a threshold without null_odds"):
        score_v2({"a": []}, {"a": ""}, threshold=1.0)
    with pytest.raises(SquadError, match="null odds lack 1 of 1 questions, first a"):
        score_v2({"a": []}, {"a": ""}, null_odds={})


def test_real_gold_answers_are_perfect(squad_dev):
    golds, _ = squad_dev
    answers = {key: texts[0] for key, texts in golds.items()}
    assert score_v1(golds, answers) == {"exact_match": 100.0, "f1": 100.0}
    found = score_v2(golds, answers)
    assert (found["exact"], found["f1"], found["HasAns_total"]) == (100.0, 100.0, 10_570)


def test_real_second_answers_against_the_first_have_the_oracles_scores(squad_dev):
    golds, _ = squad_dev
    first = {key: texts[:1] for key, texts in golds.items()}
    second = {key: texts[1] for key, texts in golds.items() if texts[1:]}
    differing = {key: text for key, text in second.items() if text != first[key][0]}
    assert 3_000 < len(differing) < len(second)
    wanted = {key: first[key] for key in differing}
    found = score_v1(wanted, differing)
    assert (found["exact_match"], found["f1"]) == pytest.approx(oracle(wanted, differing, False), abs=1e-9)
    assert 1 < found["exact_match"] < found["f1"] < 99


def test_real_contexts_cut_at_random_have_the_oracles_scores(squad_dev):
    golds, contexts = squad_dev
    draw = random.Random(1)
    answers = {}
    for key, context in contexts.items():
        start = draw.randrange(len(context))
        near = context.find(golds[key][0]) if draw.random() < 0.5 else start
        answers[key] = context[near : near + draw.randrange(60)]
    for v2, keys in ((False, ("exact_match", "f1")), (True, ("exact", "f1"))):
        found = score_v2(golds, answers) if v2 else score_v1(golds, answers)
        assert tuple(found[key] for key in keys) == pytest.approx(oracle(golds, answers, v2), abs=1e-9)
