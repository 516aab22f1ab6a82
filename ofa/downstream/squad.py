"""Exact match and F1 of answers, as the two official SQuAD scripts compute them.

In: gold answers and predicted ones, by question id. Out: percentages under the scripts' own keys, equal to theirs on
the same predictions (Rajpurkar et al. 2016, section 6.1; 2018). Both compare normalised text and take the best over a
question's gold answers. They part where nothing is left of an answer ("the", "?!"): v1.1 gives F1 0 because no
word is shared, v2 gives 1 where both are empty.

Where the scripts pass over questions without a prediction (v1.1 counts them as wrong, v2 leaves them out of the mean),
we refuse: such a file is of another split.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
"""Deletes ASCII punctuation alone, as the scripts do: typographic quotes and dashes stay."""


class SquadError(ValueError):
    """Predictions that do not fit the questions: which, and what to do."""


def score_v1(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Score answers as evaluate-v1.1 does.

    Args:
        golds: question id -> its gold answers, at least one.
        predictions: question id -> answer.

    Returns:
        `exact_match` and `f1`, in percent.

    Raises:
        SquadError: ids differ, or a question has no gold answer.
    """
    _check_ids(golds, predictions, "predictions")
    bare = [key for key, answers in golds.items() if not answers]
    if bare:
        raise SquadError(f"{len(bare)} questions have no gold answer, first {bare[0]}: such data are squad_v2's")
    exact, f1 = _best_over_golds(golds, predictions, _shared_words_f1)
    return {"exact_match": _percent(exact.values()), "f1": _percent(f1.values())}


def score_v2(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    *,
    null_odds: Mapping[str, float] | None = None,
    threshold: float | None = None,
) -> dict[str, float]:
    """Score answers as evaluate-v2.0 does.

    Args:
        golds: question id -> its gold answers; none where the context does not say.
        predictions: question id -> answer, "" for none.
        null_odds: question id -> how much likelier no answer is than the predicted one, on any scale; also searches for
            the best threshold. The search is free only over answers from which none was withheld yet
            (`find_answers(null_threshold=inf)`).
        threshold: questions whose odds are above it count as answered by "" (the script's default is 1); None:
            predictions count as they are.

    Returns:
        In percent `exact` (v1.1's `exact_match`) and `f1`, with `total`; the same with the prefixes `HasAns_` and
        `NoAns_` over questions with and without an answer, where there are some; with null_odds `best_exact` and
        `best_f1`, each with its `..._thresh`.

    Raises:
        SquadError: ids differ, there is no question, or a threshold has no odds to be held against.
    """
    _check_ids(golds, predictions, "predictions")
    if null_odds is not None:
        _check_ids(golds, null_odds, "null odds")
    wanted = {key: [text for text in answers if normalised(text)] or [""] for key, answers in golds.items()}
    exact, f1 = _best_over_golds(wanted, predictions, _shared_words_or_both_empty_f1)
    answerable = {key: bool(answers) for key, answers in golds.items()}
    given_exact, given_f1 = (_withheld(scores, answerable, null_odds, threshold) for scores in (exact, f1))
    found = _means(given_exact, given_f1, answerable)
    if null_odds is not None:
        for name, scores in (("best_exact", exact), ("best_f1", f1)):
            found[name], found[f"{name}_thresh"] = _best_threshold(scores, predictions, null_odds, answerable)
    return found


def normalised(text: str) -> str:
    """The text in lower case without ASCII punctuation and English articles, words one space apart."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def _shared_words_f1(gold: list[str], answer: list[str]) -> float:
    """F1 over words as a multiset; 0 where none is shared, also if both are empty."""
    shared = sum((Counter(gold) & Counter(answer)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _shared_words_or_both_empty_f1(gold: list[str], answer: list[str]) -> float:
    return _shared_words_f1(gold, answer) if gold and answer else float(gold == answer)


def _best_over_golds(
    golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str], f1: Callable[[list[str], list[str]], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """(exact match, F1) of every question, in the order of `golds`."""
    best_exact, best_f1 = {}, {}
    for key, texts in golds.items():
        answer = normalised(predictions[key])
        wanted = [normalised(text) for text in texts]
        best_exact[key] = float(answer in wanted)
        best_f1[key] = max(f1(text.split(), answer.split()) for text in wanted)
    return best_exact, best_f1


def _withheld(
    scores: dict[str, float], answerable: dict[str, bool], odds: Mapping[str, float] | None, threshold: float | None
) -> dict[str, float]:
    """Scores after the answers whose odds are above the threshold are taken back."""
    if threshold is None:
        return scores
    if odds is None:
        raise SquadError("a threshold without null_odds withholds nothing: give both, or neither")
    return {key: float(not answerable[key]) if odds[key] > threshold else value for key, value in scores.items()}


def _means(exact: dict[str, float], f1: dict[str, float], answerable: dict[str, bool]) -> dict[str, float]:
    """Means over all questions, those with an answer, and those without."""
    groups = {
        "": list(answerable),
        "HasAns_": [key for key, has in answerable.items() if has],
        "NoAns_": [key for key, has in answerable.items() if not has],
    }
    found: dict[str, float] = {}
    for prefix, keys in groups.items():
        if keys:
            found[f"{prefix}exact"] = _percent(exact[key] for key in keys)
            found[f"{prefix}f1"] = _percent(f1[key] for key in keys)
            found[f"{prefix}total"] = len(keys)
    return found


def _best_threshold(
    scores: dict[str, float], predictions: Mapping[str, str], odds: Mapping[str, float], answerable: dict[str, bool]
) -> tuple[float, float]:
    """(best mean in percent, its threshold): answers are given in the order of rising odds, as long as that pays.

    With none given, every question without an answer is right. Questions of equal odds are taken one by one, as the
    script does, though no threshold parts them: the best may be a little too good then.
    """
    order = sorted(odds, key=lambda key: odds[key])
    gains = [scores[key] if answerable[key] else -float(predictions[key] != "") for key in order]
    totals = np.cumsum([sum(not has for has in answerable.values()), *gains])
    best = int(totals.argmax())  # the first of equals, so the lowest threshold
    return 100.0 * float(totals[best]) / len(scores), odds[order[best - 1]] if best else 0.0


def _percent(scores: Iterable[float]) -> float:
    listed = list(scores)
    return 100.0 * sum(listed) / len(listed)


def _check_ids(golds: Mapping[str, Sequence[str]], found: Mapping[str, object], what: str) -> None:
    if not golds:
        raise SquadError("there is no question to score: the split is empty")
    missing, foreign = [key for key in golds if key not in found], [key for key in found if key not in golds]
    if missing:
        raise SquadError(
            f"{what} lack {len(missing):,} of {len(golds):,} questions, first {missing[0]}: give every "
            'question one, "" for no answer'
        )
    if foreign:
        raise SquadError(
            f"{what} are for {len(foreign):,} ids that the questions do not have, first {foreign[0]}: they "
            "are of another split"
        )
