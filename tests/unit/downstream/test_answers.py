"""Answers against a slow oracle that tries every span, and the rules one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.data.task_rows import TaskRows
from ofa.downstream.answers import AnswerError, find_answers, withheld
from ofa.downstream.scores import ScoreError

OUTSIDE = (-1, -1)


def window(logits, offsets, example):
    """One row: [(start logit, end logit)], [(first character, one behind the last)], number of the example."""
    return np.array(logits, dtype=np.float32).reshape(-1, 2), np.array(offsets, dtype=np.int32).reshape(-1, 2), example


def as_rows(windows):
    """(TaskRows, logits) of windows."""
    lengths = np.array([len(logits) for logits, _, _ in windows], dtype=np.int64)
    total = int(lengths.sum())
    rows = TaskRows(
        tokens=np.zeros(total, dtype=np.int32),
        token_types=np.zeros(total, dtype=np.int8),
        lengths=lengths,
        labels=None,
        examples=np.array([example for _, _, example in windows], dtype=np.int64),
        offsets=np.concatenate([offsets for _, offsets, _ in windows]),
    )
    return rows, [logits for logits, _, _ in windows]


def answer(windows, contexts, **settings):
    """Answers of windows, ids q0, q1, ..."""
    rows, logits = as_rows(windows)
    settings = {"unanswerable": False, **settings}
    return find_answers(rows, logits, ids=[f"q{n}" for n in range(len(contexts))], contexts=contexts, **settings)


def allowed(number, logits, n_best):
    """Whether fewer than `n_best` logits are before this one: higher, or equal and further left."""
    return sum((-other, place) < (-logits[number], number) for place, other in enumerate(logits)) < n_best


def every_span(logits, offsets, n_best, longest):
    """[(start, end)] of one window, by trying all pairs of tokens."""
    starts, ends = logits[:, 0].tolist(), logits[:, 1].tolist()
    return [
        (first, last)
        for first in range(len(starts))
        for last in range(len(starts))
        if allowed(first, starts, n_best) and allowed(last, ends, n_best)
        if min(offsets[first]) >= 0 and min(offsets[last]) >= 0
        if first <= last <= first + longest - 1 and offsets[last][1] > offsets[first][0]
    ]


def oracle(windows, contexts, *, unanswerable, n_best, max_answer_tokens, null_threshold):
    """(predictions, n-best without probabilities, null odds), one question and one span at a time."""
    predictions, best, odds = [], [], []
    for number, context in enumerate(contexts):
        spans, nulls = [], []
        for place, (logits, offsets, example) in enumerate(windows):
            if example != number:
                continue
            nulls.append(float(logits[0, 0]) + float(logits[0, 1]))
            for first, last in every_span(logits, offsets.tolist(), n_best, max_answer_tokens):
                score = float(logits[first, 0]) + float(logits[last, 1])
                spans.append((-score, place, first, last, int(offsets[first, 0]), int(offsets[last, 1])))
        spans.sort()
        entries = [(-negative, 0, context[start:end], start, end) for negative, _, _, _, start, end in spans]
        nothing = (min(nulls) if unanswerable else 0.0, 1, "", -1, -1)
        listed = list(entries)
        if unanswerable or not entries:
            listed = sorted([*entries, nothing], key=lambda one: (-one[0], one[1]))
        kept = listed[:n_best]
        if nothing in listed and nothing not in kept:
            kept.append(nothing)
        best.append([(text, score, start, end) for score, _, text, start, end in kept])
        ahead = nothing[0] - (entries[0][0] if entries else 0.0)
        odds.append(ahead)
        gives = entries and not (unanswerable and ahead > null_threshold)
        predictions.append(entries[0][2] if gives else "")
    return predictions, best, odds if unanswerable else None


@st.composite
def questions(draw):
    """Windows of one to three questions, few different logits so that many are equal."""
    windows, contexts = [], []
    for example in range(draw(st.integers(1, 3))):
        contexts.append("".join(draw(st.lists(st.sampled_from("abc d"), min_size=8, max_size=8))))
        for _ in range(draw(st.integers(1, 3))):
            length = draw(st.integers(1, 8))
            levels = st.integers(-1, 2).map(lambda number: number / 4)
            logits = draw(st.lists(levels, min_size=2 * length, max_size=2 * length))
            asked = draw(st.integers(1, length))
            inside = [(at, at + draw(st.integers(0, 1))) for at in range(length - asked)]
            windows.append(window(logits, [*[OUTSIDE] * asked, *inside], example))
    return windows, contexts


@settings(max_examples=300)
@given(
    questions(),
    st.booleans(),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([-math.inf, -0.5, 0.0, 0.25, math.inf]),
)
def test_answers_equal_the_slow_oracle(case, unanswerable, n_best, longest, threshold):
    windows, contexts = case
    rules = {"unanswerable": unanswerable, "n_best": n_best, "max_answer_tokens": longest, "null_threshold": threshold}
    found = answer(windows, contexts, **rules)
    predictions, best, odds = oracle(windows, contexts, **rules)
    assert list(found.predictions.values()) == predictions
    assert [[(c.text, c.score, c.start, c.end) for c in its] for its in found.n_best.values()] == best
    assert (None if found.null_odds is None else list(found.null_odds.values())) == odds
    for its in found.n_best.values():
        powers = [math.exp(one.score) for one in its]
        assert [one.probability for one in its] == pytest.approx([power / sum(powers) for power in powers], abs=1e-12)


CONTEXT = "Paris is in France"
TOKENS = [OUTSIDE, OUTSIDE, OUTSIDE, (0, 5), (6, 8), (9, 11), (12, 18), OUTSIDE]


def spans_at(**places):
    """Logits of 8 tokens that are -5 but where `s3=2.0` (start of token 3) or `e6=1.0` say otherwise."""
    logits = np.full((8, 2), -5.0, dtype=np.float32)
    for name, value in places.items():
        logits[int(name[1:]), "se".index(name[0])] = value
    return logits


def test_the_answer_is_cut_from_the_context_by_characters():
    found = answer([window(spans_at(s4=3, e6=2), TOKENS, 0)], [CONTEXT])
    assert found.predictions == {"q0": "is in France"} and found.null_odds is None
    assert found.n_best["q0"][0][:2] == ("is in France", 5.0) and found.n_best["q0"][0][3:] == (6, 18)


def test_starts_in_the_question_and_spans_that_end_before_they_start_are_no_answers():
    found = answer([window(spans_at(s1=9, s6=8, s3=1, e3=9, e7=9), TOKENS, 0)], [CONTEXT])
    assert found.predictions["q0"] == "Paris"


def test_longer_spans_than_allowed_are_no_answers():
    logits = spans_at(s3=5, e6=5, e4=1)
    assert answer([window(logits, TOKENS, 0)], [CONTEXT], max_answer_tokens=4).predictions["q0"] == CONTEXT
    assert answer([window(logits, TOKENS, 0)], [CONTEXT], max_answer_tokens=3).predictions["q0"] == "Paris is"


def test_the_window_with_the_highest_sum_answers():
    low, high = window(spans_at(s3=2, e3=2), TOKENS, 0), window(spans_at(s6=3, e6=2), TOKENS, 0)
    for windows in ([low, high], [high, low]):
        assert answer(windows, [CONTEXT]).predictions["q0"] == "France"


def test_equal_scores_are_ordered_by_window_start_and_end():
    windows = [window(spans_at(s3=1, s4=1, e4=1, e6=1), TOKENS, 0), window(spans_at(s3=1, e3=1), TOKENS, 0)]
    listed = answer(windows, [CONTEXT], n_best=5).n_best["q0"]
    assert [one.text for one in listed] == ["Paris is", CONTEXT, "is", "is in France", "Paris"]


def test_no_answer_has_the_lowest_score_over_windows():
    high, low = spans_at(s0=4, e0=4, s3=1, e3=1), spans_at(s0=0, e0=1, s6=0, e6=0)
    found = answer([window(high, TOKENS, 0), window(low, TOKENS, 0)], [CONTEXT], unanswerable=True)
    assert found.null_odds == {"q0": 1.0 - 2.0} and found.predictions["q0"] == "Paris"


@pytest.mark.parametrize(("threshold", "text"), [(0.0, ""), (2.9, ""), (3.0, "Paris"), (math.inf, "Paris")])
def test_no_answer_is_given_where_it_is_ahead_by_more_than_the_threshold(threshold, text):
    windows = [window(spans_at(s0=2, e0=3, s3=1, e3=1), TOKENS, 0)]
    found = answer(windows, [CONTEXT], unanswerable=True, null_threshold=threshold)
    assert found.null_odds == {"q0": 3.0} and found.predictions["q0"] == text
    assert found.n_best["q0"][0].text == "" and found.n_best["q0"][1].text == "Paris"


def test_no_answer_stays_among_the_n_best():
    windows = [window(spans_at(s3=5, e3=5, e4=4), TOKENS, 0)]
    listed = answer(windows, [CONTEXT], unanswerable=True, n_best=1).n_best["q0"]
    assert [one.text for one in listed] == ["Paris", ""]


def test_a_question_without_any_span_is_answered_by_nothing():
    windows = [window(spans_at(s0=2, e0=2)[:3], TOKENS[:3], 0)]
    found = answer(windows, [CONTEXT])
    assert found.predictions == {"q0": ""} and found.n_best["q0"] == [("", 0.0, 1.0, -1, -1)]
    assert answer(windows, [CONTEXT], unanswerable=True, null_threshold=math.inf).predictions == {"q0": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": []}, "0 rows have logits, expected 2"),
        ({"logits": [spans_at(), spans_at()[:5]]}, "row 1 has logits of shape \\[5, 2\\], expected \\[8, 2\\]"),
        ({"ids": ["a"], "contexts": [CONTEXT]}, "row 1 is of example 1, but there are 1 ids"),
        ({"ids": ["a", "b", "c"], "contexts": [CONTEXT] * 3}, "question c has no row"),
        ({"ids": ["a", "a"]}, "1 of 2 ids are there twice"),
        ({"contexts": [CONTEXT]}, "2 ids and 1 contexts"),
        ({"contexts": [CONTEXT, "Paris"]}, "question b has a span that ends at character 18 of a context of 5"),
    ],
)
def test_parts_of_other_rows_are_refused(changes, message):
    rows, logits = as_rows([window(spans_at(), TOKENS, 0), window(spans_at(), TOKENS, 1)])
    parts = {"logits": logits, "ids": ["a", "b"], "contexts": [CONTEXT, CONTEXT], "unanswerable": False, **changes}
    with pytest.raises(AnswerError, match=message):
        find_answers(rows, **parts)


def test_rows_of_another_task_are_refused():
    rows, logits = as_rows([window(spans_at(), TOKENS, 0)])
    plain = TaskRows(rows.tokens, rows.token_types, rows.lengths, None, rows.examples)
    with pytest.raises(AnswerError, match="not of a task of questions"):
        find_answers(plain, logits, ids=["a"], contexts=[CONTEXT], unanswerable=False)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ScoreError, match="token logits of 1 of 16 rows are not finite, first in row 11"):
        answer([window(spans_at(), TOKENS, 0), window(spans_at(e3=np.nan), TOKENS, 0)], [CONTEXT])


@given(questions(), st.booleans(), st.sampled_from([-math.inf, -0.5, 0.0, 0.25, math.inf]))
def test_answers_withheld_afterwards_are_those_of_the_threshold(case, unanswerable, threshold):
    windows, contexts = case
    given = answer(windows, contexts, unanswerable=unanswerable, null_threshold=math.inf)
    asked = answer(windows, contexts, unanswerable=unanswerable, null_threshold=threshold)
    assert withheld(given, threshold) == asked
