"""What predictions are worth: the metrics of classification and regression, by name.

In: logits of a split and its labels. Out: decisions, and for each metric a plain number: a fraction or a coefficient,
never a percentage. The formulas are scikit-learn's and scipy's; what is decided here is what they leave open, because a
number must come out at every evaluation (an untrained head predicts one class) and NaN can be neither compared nor
written to JSON. Answers to questions have metrics of their own (`ofa.downstream.squad`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

from ofa.data.tasks import Kind

UNDECIDED = -1
"""The class of a word of which a model says nothing."""


class ScoreError(ValueError):
    """Logits, predictions or labels that cannot be scored: what was found, what was expected, what to do."""


def decisions(kind: Kind, logits: np.ndarray) -> np.ndarray:
    """What a model decides.

    Args:
        logits: [..., classes] for `classification` and `tokens`; [N] or [N, 1] for `regression`.

    Returns:
        int64 [...], the class with the highest logit (the first of equals); for regression float64 [N], the value.

    Raises:
        ScoreError: logits that are not finite, of a wrong shape, or of `questions`.
    """
    check_finite(logits)
    if kind == "questions":
        raise ScoreError("logits of questions are no classes: ofa.downstream.answers makes answers of them")
    if kind != "regression":
        return logits.argmax(axis=-1).astype(np.int64)
    if logits.ndim != 1 and logits.shape[1:] != (1,):
        raise ScoreError(
            f"regression has one output a row, found logits of shape {list(logits.shape)}: the head is "
            "one of classification"
        )
    return logits.reshape(-1).astype(np.float64)


def word_decisions(logits: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Decisions of W words out of T tokens that lie end to end (kind `tokens`).

    Args:
        logits: [T, classes]
        words: int64 [W], place of each word's first token; negative where it has none.

    Returns:
        int64 [W], UNDECIDED for words without a token: nothing was said of them, so they are never right. Leaving them
        out would make a model look better the less it reads.

    Raises:
        ScoreError: logits that are not finite.
    """
    found = np.full(len(words), UNDECIDED, dtype=np.int64)
    found[words >= 0] = decisions("tokens", logits[words[words >= 0]])
    return found


def score(metrics: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score N predictions against their labels.

    Args:
        metrics: names out of `METRICS`.
        predictions: [N], classes or values, of `decisions` or `word_decisions`.
        labels: [N], the same.

    Raises:
        ScoreError: a name that is no metric; arrays that are empty, of other shapes, or not finite; f1 of labels other
            than 0 and 1.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ScoreError(f"unknown metric {unknown[0]!r}: known are {', '.join(METRICS)}")
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        found = f"{list(predictions.shape)} and {list(labels.shape)}"
        raise ScoreError(
            f"predictions and labels have shapes {found}: expected one prediction for each of N > 0 labels"
        )
    check_finite(predictions, "predictions")
    check_finite(labels, "labels")
    return {name: float(METRICS[name](predictions, labels)) for name in metrics}


def check_finite(numbers: np.ndarray, what: str = "logits") -> None:
    """Refuse NaN and infinity, which would be scored as if they were predictions.

    Raises:
        ScoreError: some are not finite; names the first row.
    """
    finite = np.asarray(np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim))))
    if not finite.all():
        bad, first = int((~finite).sum()), int(np.argmin(finite))
        raise ScoreError(
            f"{what} of {bad:,} of {len(finite):,} rows are not finite, first in row {first}: expected "
            "numbers; a model that diverged or is damaged gives none, take an earlier checkpoint"
        )


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1; 0 where that class is neither predicted nor there."""
    others = set(np.unique(np.concatenate([predictions, labels])).tolist()) - {0, 1}
    if others:
        raise ScoreError(f"f1 knows classes 0 and 1, found {min(others)}: f1_macro is for more than two classes")
    return float(f1_score(labels, predictions, zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _f1_macro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the F1 of every class that is predicted or there; a class of which nothing is right has 0."""
    classes = np.setdiff1d(np.concatenate([predictions, labels]), [UNDECIDED])
    return float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation; 0 where predictions or labels are all of one class, the value of guessing."""
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation; 0 where predictions or labels are constant: 0/0, and a constant tells nothing."""
    return _correlation(pearsonr, predictions, labels)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where Pearson's is."""
    return _correlation(spearmanr, predictions, labels)


def _correlation(of: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    # scipy computes in the precision of what it is given
    return float(of(predictions.astype(np.float64), labels.astype(np.float64))[0])


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(accuracy_score(labels, predictions))


def _mse(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(mean_squared_error(labels.astype(np.float64), predictions.astype(np.float64)))


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}
"""Name: function of (predictions, labels)."""
