"""Metrics by hand, as properties, and at the edges that scikit-learn and scipy leave open."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.scores import METRICS, UNDECIDED, ScoreError, decisions, score, word_decisions

CLASSES = ("accuracy", "f1", "f1_macro", "matthews")
VALUES = ("pearson", "spearman", "mse")


def one(metric, predictions, labels):
    """The value of one metric."""
    return score([metric], np.array(predictions), np.array(labels))[metric]


# 8 rows: 3 true positives, 1 false positive, 2 false negatives, 2 true negatives
LABELS = [1, 1, 1, 0, 1, 1, 0, 0]
GUESSES = [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 5 / 8),
        ("f1", 2 * 3 / (2 * 3 + 1 + 2)),
        ("f1_macro", (6 / 9 + 4 / 7) / 2),
        ("matthews", (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4)),
    ],
)
def test_metrics_of_classes_by_hand(metric, value):
    assert one(metric, GUESSES, LABELS) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        # deviations -1.5 -.5 .5 1.5 and -2 -1 -1 4: 9 / sqrt(5 * 22)
        ("pearson", 9 / math.sqrt(5 * 22)),
        # ranks 1 2 3 4 and 1 2.5 2.5 4: 4.5 / sqrt(5 * 4.5)
        ("spearman", 4.5 / math.sqrt(5 * 4.5)),
        ("mse", (1 + 1 + 4 + 4) / 4),
    ],
)
def test_metrics_of_values_by_hand(metric, value):
    assert one(metric, [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 6.0]) == pytest.approx(value, abs=1e-15)


def test_f1_macro_of_three_classes_counts_a_class_that_is_never_right():
    assert one("f1_macro", [0, 1, 1, 1], [0, 1, 1, 2]) == pytest.approx((1 + 4 / 5 + 0) / 3, abs=1e-15)


def test_matthews_of_three_classes_is_the_correlation_of_the_confusion_matrix():
    # correct 3 of 4; true counts 1 2 1, predicted 1 3 0
    expected = (3 * 4 - (1 * 1 + 3 * 2 + 0)) / math.sqrt((16 - 10) * (16 - 6))
    assert one("matthews", [0, 1, 1, 1], [0, 1, 1, 2]) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("predictions", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 1, 1]])
def test_guessing_one_class_has_matthews_0_and_no_warning(predictions, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(CLASSES, np.array(predictions), np.array(labels))["matthews"] == 0.0


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_values_have_correlation_0_and_no_warning(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(metric, [2.5, 2.5, 2.5], [0.0, 1.0, 5.0]) == 0.0
        assert one(metric, [0.0, 1.0, 5.0], [2.5, 2.5, 2.5]) == 0.0
        assert one(metric, [1.0], [2.0]) == 0.0


def test_f1_without_any_positive_is_0():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one("f1", [0, 0], [0, 0]) == 0.0
        assert one("f1", [0, 0], [0, 1]) == 0.0


pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
levels = st.integers(-50, 50).map(lambda number: number / 10)
value_pairs = st.lists(st.tuples(levels, levels), min_size=2, max_size=40)


def columns(rows):
    """Two arrays of a list of pairs."""
    first, second = zip(*rows, strict=True)
    return np.array(first), np.array(second)


@settings(max_examples=25)  # scikit-learn takes milliseconds a call
@given(pairs, st.randoms())
def test_the_order_of_rows_does_not_change_class_metrics(rows, random):
    before = score(CLASSES, *columns(rows))
    random.shuffle(rows)
    assert score(CLASSES, *columns(rows)) == pytest.approx(before, abs=1e-12)


@given(value_pairs, st.randoms())
def test_the_order_of_rows_does_not_change_value_metrics(rows, random):
    before = score(VALUES, *columns(rows))
    random.shuffle(rows)
    assert score(VALUES, *columns(rows)) == pytest.approx(before, abs=1e-9)


@settings(max_examples=25)
@given(pairs)
def test_swapping_predictions_and_labels_changes_no_class_metric(rows):
    first, second = columns(rows)
    assert score(CLASSES, first, second) == pytest.approx(score(CLASSES, second, first), abs=1e-12)


@given(value_pairs, st.floats(0.1, 10), st.floats(-5, 5))
def test_correlations_do_not_see_scale_and_shift_and_their_sign_turns(rows, scale, shift):
    first, second = columns(rows)
    before = score(["pearson", "spearman"], first, second)
    assert score(["pearson", "spearman"], scale * np.round(first, 1) + shift, second) == pytest.approx(before, abs=1e-6)
    turned = score(["pearson", "spearman"], -first, second)
    assert turned == pytest.approx({name: -value for name, value in before.items()}, abs=1e-9)


@given(value_pairs)
def test_spearman_sees_order_alone(rows):
    first, second = columns(rows)
    assert one("spearman", np.exp(first), second) == pytest.approx(one("spearman", first, second), abs=1e-9)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=30).filter(lambda labels: 0 < sum(labels) < len(labels)))
def test_perfect_predictions_have_1(labels):
    found = score([*CLASSES, *VALUES], np.array(labels), np.array(labels))
    assert found == pytest.approx({name: 0.0 if name == "mse" else 1.0 for name in METRICS}, abs=1e-12)


@given(value_pairs)
def test_every_score_is_a_plain_finite_number(rows):
    first, second = columns(rows)
    found = score(VALUES, first.astype(np.float32), second.astype(np.float32))
    json.dumps(found, allow_nan=False)
    assert all(type(value) is float for value in found.values())


def test_metrics_come_in_the_order_they_are_asked_for():
    assert list(score(["f1", "accuracy"], np.array([1]), np.array([1]))) == ["f1", "accuracy"]


def test_values_of_float32_are_scored_in_float64():
    labels = np.linspace(0, 5, 1500, dtype=np.float32)
    guesses = labels + np.float32(1e-3) * np.cos(np.arange(1500, dtype=np.float32))
    exact = np.corrcoef(guesses.astype(np.float64), labels.astype(np.float64))[0, 1]
    assert one("pearson", guesses, labels) == pytest.approx(exact, abs=1e-14)


def test_decisions_take_the_highest_logit_and_the_first_of_equals():
    logits = np.array([[0.1, 0.3, 0.2], [5.0, 5.0, 1.0]], dtype=np.float32)
    assert decisions("classification", logits).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_decision_of_a_regression_is_its_value(shape):
    values = decisions("regression", np.array([0.5, -1.0, 6.25], dtype=np.float32).reshape(shape))
    assert values.tolist() == [0.5, -1.0, 6.25] and values.dtype == np.float64


def test_words_are_decided_at_their_first_token_or_not_at_all():
    logits = np.eye(3, dtype=np.float32)[[2, 0, 1, 1, 0]]
    predictions = word_decisions(logits, np.array([1, 2, -1, 4]))
    assert predictions.tolist() == [0, 1, UNDECIDED, 0]
    found = score(["accuracy", "f1_macro"], predictions, np.array([0, 2, 2, 0]))
    assert found == {"accuracy": 0.5, "f1_macro": pytest.approx(1 / 3)}, "what is undecided is no class of its own"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["classification", "regression", "tokens"])
def test_logits_that_are_not_finite_are_refused_with_their_row(kind, bad):
    logits = np.zeros((4, 1 if kind == "regression" else 3))
    logits[2, 0] = bad
    with pytest.raises(ScoreError, match="logits of 1 of 4 rows are not finite, first in row 2"):
        decisions(kind, logits)


def test_predictions_that_are_not_finite_are_refused():
    with pytest.raises(ScoreError, match="predictions of 1 of 2 rows"):
        score(["mse"], np.array([1.0, np.nan]), np.array([1.0, 1.0]))


@pytest.mark.parametrize(
    ("metrics", "predictions", "labels", "message"),
    [
        (["exactness"], [1], [1], "unknown metric 'exactness': known are accuracy"),
        (["accuracy"], [], [], "shapes \\[0\\] and \\[0\\]"),
        (["accuracy"], [1, 0], [1], "shapes \\[2\\] and \\[1\\]"),
        (["accuracy"], [[1, 0]], [[1, 0]], "expected one prediction"),
        (["f1"], [0, 2], [0, 1], "f1 knows classes 0 and 1, found 2"),
    ],
)
def test_what_cannot_be_scored_is_named(metrics, predictions, labels, message):
    with pytest.raises(ScoreError, match=message):
        score(metrics, np.array(predictions), np.array(labels))


def test_outputs_of_another_head_are_named():
    with pytest.raises(ScoreError, match="one output a row, found logits of shape \\[4, 3\\]"):
        decisions("regression", np.zeros((4, 3)))
    with pytest.raises(ScoreError, match="ofa.downstream.answers"):
        decisions("questions", np.zeros((4, 2)))
