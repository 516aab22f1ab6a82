"""From start and end logits of windows to answers: which span of the context, or none.

In: the rows of a split of questions, logits of every token, ids and contexts. Out: an answer for each question, the
spans that came next, and for data with unanswerable questions how far no answer is ahead. The rules are those of the
field's question answering scripts (Devlin et al. 2019, sections 4.2 and 4.3): a window's spans are made of its n best
starts and ends; the windows of a question compete by the plain sum of their logits.

Logits come ragged, one array a row without padding: padding would take places among the n best. Equal scores are put in
order (window, start, end), so the answers are a pure function of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from ofa.data.task_rows import TaskRows
from ofa.downstream.scores import check_finite


class AnswerError(ValueError):
    """Logits, ids or contexts that do not fit the rows: what was found, what was expected."""


class Candidate(NamedTuple):
    """A span of the context that may be the answer, or no answer."""

    text: str
    """"" for no answer."""
    score: float
    """Start logit + end logit."""
    probability: float
    """Softmax of the score over the question's candidates."""
    start: int
    """First character in the context; -1 for no answer."""
    end: int
    """One behind the last character; -1 for no answer."""


@dataclass(frozen=True)
class Answers:
    """Of every question, by its id."""

    predictions: dict[str, str]
    """The answer; "" for none."""
    n_best: dict[str, list[Candidate]]
    """Candidates, best first. Windows overlap, so that a span may be there more than once."""
    null_odds: dict[str, float] | None
    """Score of no answer less that of the best span; None where every question has an answer."""


@dataclass(frozen=True)
class _Spans:
    """Candidates of one or several windows as arrays of one length, best first."""

    scores: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def first(self, order: np.ndarray, count: int) -> _Spans:
        """The first `count` in another order."""
        chosen = order[:count]
        return _Spans(self.scores[chosen], self.starts[chosen], self.ends[chosen])


def find_answers(
    rows: TaskRows,
    logits: Sequence[np.ndarray],
    *,
    ids: Sequence[str],
    contexts: Sequence[str],
    unanswerable: bool,
    n_best: int = 20,
    max_answer_tokens: int = 30,
    null_threshold: float = 0.0,
) -> Answers:
    """Answer every question.

    Args:
        rows: N windows, with offsets; a row's first token is its [CLS].
        logits: N arrays [length, 2], start and end logits of a row's tokens.
        ids: of the examples that `rows.examples` counts.
        contexts: of the same.
        unanswerable: whether "" is an answer (SQuAD v2): its score is the lowest of start + end logit at [CLS] over the
            question's windows, and it is given where that is above the best span's by more than `null_threshold`.
        n_best: starts and ends that a window's spans are made of, and candidates that are kept.
        max_answer_tokens: longest span.

    A question of which no window has a span (all of its best starts lie in the question, say) is answered by "", with
    score 0 in place of the best span's.

    Raises:
        AnswerError: rows, logits, ids and contexts do not fit each other.
        ScoreError: a logit is not finite.
    """
    offsets = _offsets_of_rows(rows, logits, len(ids), len(contexts))
    answers = Answers({}, {}, {} if unanswerable else None)
    for key, context, windows in zip(ids, contexts, _windows(rows, ids), strict=True):
        found = [_window_spans(logits[row], offsets[row], n_best=n_best, longest=max_answer_tokens) for row in windows]
        spans = _merged(found, n_best)
        if len(spans.ends) and spans.ends.max() > len(context):
            raise AnswerError(
                f"question {key} has a span that ends at character {spans.ends.max():,} of a context of "
                f"{len(context):,}: the contexts are of other rows"
            )
        null = min(_null_score(logits[row]) for row in windows) if unanswerable else None
        answers.n_best[key] = _candidates(spans, null, context, n_best)
        withheld = not len(spans.scores)
        if answers.null_odds is not None and null is not None:
            answers.null_odds[key] = null - (0.0 if withheld else float(spans.scores[0]))
            withheld = withheld or answers.null_odds[key] > null_threshold
        answers.predictions[key] = "" if withheld else context[spans.starts[0] : spans.ends[0]]
    return answers


def withheld(answers: Answers, null_threshold: float) -> Answers:
    """Answers of `find_answers(null_threshold=inf)` under another threshold."""
    odds = answers.null_odds
    if odds is None:
        return answers
    kept = {key: "" if odds[key] > null_threshold else text for key, text in answers.predictions.items()}
    return replace(answers, predictions=kept)


def _offsets_of_rows(rows: TaskRows, logits: Sequence[np.ndarray], ids: int, contexts: int) -> list[np.ndarray]:
    """Offsets [length, 2] of every row, after the check that all parts are of the same split."""
    if rows.offsets is None:
        raise AnswerError("the rows have no offsets: they are not of a task of questions")
    if len(logits) != len(rows):
        raise AnswerError(f"{len(logits):,} rows have logits, expected {len(rows):,}: the evaluation is not complete")
    if ids != contexts:
        raise AnswerError(f"{ids:,} ids and {contexts:,} contexts: expected one of each for every example")
    for row, (found, length) in enumerate(zip(logits, rows.lengths, strict=True)):
        if found.shape != (length, 2):
            raise AnswerError(
                f"row {row} has logits of shape {list(found.shape)}, expected [{length}, 2]: start and "
                "end of each token, without padding"
            )
    if logits:
        check_finite(np.concatenate(logits), "token logits")
    return np.split(rows.offsets, np.cumsum(rows.lengths)[:-1])


def _windows(rows: TaskRows, ids: Sequence[str]) -> list[range]:
    """Row numbers of every example; they ascend, so each example's rows are neighbours."""
    if len(set(ids)) < len(ids):
        raise AnswerError(f"{len(ids) - len(set(ids)):,} of {len(ids):,} ids are there twice: answers are told by id")
    borders = np.searchsorted(rows.examples, np.arange(len(ids) + 1)).tolist()
    if borders[-1] < len(rows):
        raise AnswerError(
            f"row {borders[-1]} is of example {rows.examples[borders[-1]]}, but there are {len(ids):,} ids"
        )
    windows = [range(first, last) for first, last in zip(borders, borders[1:], strict=False)]
    bare = next((key for key, its_rows in zip(ids, windows, strict=True) if not its_rows), None)
    if bare is not None:
        raise AnswerError(f"question {bare} has no row: expected one window at least")
    return windows


def _window_spans(logits: np.ndarray, offsets: np.ndarray, *, n_best: int, longest: int) -> _Spans:
    """The best spans of one window, at most `n_best`."""
    starts, ends = (_inside(_highest(logits[:, column], n_best), offsets) for column in (0, 1))
    first, last = (side.reshape(-1) for side in np.meshgrid(starts, ends))
    valid = (first <= last) & (last - first < longest)
    valid &= offsets[last, 1] > offsets[first, 0]  # some tokens cover no character
    first, last = first[valid], last[valid]
    scores = logits[first, 0].astype(np.float64) + logits[last, 1]
    spans = _Spans(scores, offsets[first, 0], offsets[last, 1])
    return spans.first(np.lexsort((last, first, -scores)), n_best)


def _highest(logits: np.ndarray, count: int) -> np.ndarray:
    """Positions of the highest logits, the first of equals before the others."""
    return np.argsort(-logits, kind="stable")[:count]


def _inside(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return positions[offsets[positions, 0] >= 0]


def _merged(windows: Sequence[_Spans], n_best: int) -> _Spans:
    """The best spans over a question's windows; of equals the earlier window's."""
    if len(windows) == 1:
        return windows[0]
    joined = _Spans(*(np.concatenate([getattr(one, name) for one in windows]) for name in ("scores", "starts", "ends")))
    return joined.first(np.argsort(-joined.scores, kind="stable"), n_best)


def _null_score(logits: np.ndarray) -> float:
    """Start + end logit at [CLS]."""
    return float(logits[0, 0]) + float(logits[0, 1])


def _candidates(spans: _Spans, null: float | None, context: str, n_best: int) -> list[Candidate]:
    """The best spans and, where it may be one, no answer: by score, which puts it behind a span of equal score.

    No answer stays on the list where `n_best` spans are above it. Where there is no span it is there in any case.
    """
    parts = zip(spans.scores.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
    listed = [(score, context[start:end], start, end) for score, start, end in parts]
    if null is not None or not listed:
        nothing = (null or 0.0, "", -1, -1)
        above = int((spans.scores >= nothing[0]).sum())
        listed.insert(above, nothing)
        listed = listed[:n_best] if above < n_best else [*listed[:n_best], nothing]
    shares = softmax([score for score, *_ in listed]).tolist()
    return [
        Candidate(text, score, share, start, end)
        for (score, text, start, end), share in zip(listed, shares, strict=True)
    ]
