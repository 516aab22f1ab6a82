"""A task model that can be asked: texts in, labels or answers out.

In: texts as people give them, or examples. Out: a dict for each, in the words of the files of predictions. Everything
but the forward is what evaluation does: the same rows, batches, names of classes and rules for answers, so that a model
says here what it was scored for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ofa.data.task_batches import TaskBatch
from ofa.data.task_rows import TaskRows, encode
from ofa.data.task_sources import Examples
from ofa.data.tasks import Kind
from ofa.downstream.answers import Answers
from ofa.downstream.evaluation import Scored, predict_alone, scored
from ofa.downstream.predictions import labelled
from ofa.downstream.task_data import OpenTask, Split, check_ids, cut_in_words
from ofa.downstream.write_predictions import class_shares

LOG = logging.getLogger(__name__)


class InferenceError(ValueError):
    """A folder that cannot be asked, or inputs that are not what its model takes: what was found, what was expected."""


@dataclass(frozen=True)
class Predicted:
    """What a model says of some examples."""

    results: list[dict[str, Any]]
    """One for each; see `Predictor.__call__`."""
    cut: int
    """What it did not see (`TaskRows.cut`)."""


@dataclass(frozen=True)
class Predictor:
    """A task model that can be asked."""

    name: str
    """As it was given."""
    opened: OpenTask
    """Its task, with class names, and its tokenizer."""
    model_config: PreTrainedConfig
    """Its config.json."""
    runtime: str
    """`torch`, or a name of `ofa.runtimes.formats.FORMATS`."""
    paired: bool | None
    """Whether it was trained on pairs of texts; None: nobody says."""
    outputs_of: Callable[[TaskBatch], Tensor]
    device: torch.device
    """Of torch's batches."""
    threads: int | None
    """Of torch; None: those that it has. Other runtimes have theirs from the start."""

    @property
    def kind(self) -> Kind:
        """Of its task."""
        return self.opened.task.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes; () where it has none."""
        return self.opened.task.labels

    def __call__(
        self,
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        pairs: str | Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        null_threshold: float | None = None,
    ) -> Any:
        """Ask of one example or a list of them; what comes back is a dict, or a list of these in the same order.

            classification   label, probabilities {name: share}
            regression       label, a number
            tokens           label, probabilities: lists with one entry a word, null for a word without a token
            questions        answer ("" for none), probability, start and end (characters of the context, -1 for none),
                             null_odds (score of no answer less that of the best span; null where every question has an
                             answer), n_best, the candidates

        Args:
            texts: a text or a list of them; questions; of tokens one list of words or a list of such lists.
            pairs: second texts; contexts of questions.
            batch_size: rows of one forward.
            null_threshold: of questions: no answer is given where its score is ahead by more; None: as the model was
                trained, and one that does not say so gives an answer always.

        Raises:
            InferenceError: other inputs than the model takes.
            ScoreError: an output is not finite.
        """
        examples, single = self._examples(texts, pairs)
        found = self.ask(examples, batch_size=batch_size, null_threshold=null_threshold)
        if found.cut:
            LOG.warning("%s: %s", self.name, cut_in_words(found.cut, self.opened.task))
        return found.results[0] if single else found.results

    def ask(self, examples: Examples, *, batch_size: int = 32, null_threshold: float | None = None) -> Predicted:
        """The same of examples whose ids differ."""
        if not len(examples):
            return Predicted([], 0)
        opened = self._with_threshold(null_threshold)
        task, config = opened.task, opened.config
        rows = encode(examples, opened.tokenizer, task.kind, task.max_length, config.stride)
        outputs = self.outputs(rows, batch_size=batch_size)
        split = Split("inputs", examples, rows)
        return Predicted(results_of(opened, split, scored(opened, split, outputs)), rows.cut)

    def outputs(self, rows: TaskRows, *, batch_size: int = 32) -> np.ndarray:
        """Logits of encoded rows, as `ofa.downstream.evaluation.predict` gives them.

        Raises:
            ModelError: a token that the model has no vector for.
        """
        check_ids(rows, self.model_config, self.name)
        with _threads(self.threads):
            return predict_alone(
                self.outputs_of,
                rows,
                self.kind,
                pad_id=self.opened.pad_id,
                micro_size=batch_size,
                device=self.device,
            )

    def _with_threshold(self, threshold: float | None) -> OpenTask:
        if threshold is None:
            return self.opened
        if self.kind != "questions":
            raise InferenceError(f"null_threshold is for questions, and {self.name} is a model of {self.kind}")
        config = self.opened.config.model_copy(update={"null_threshold": threshold})
        return replace(self.opened, config=config, task=replace(self.opened.task, unanswerable=True))

    def _examples(self, texts: Any, pairs: Any) -> tuple[Examples, bool]:
        """Checked examples, and whether one alone was given."""
        tokens = self.kind == "tokens"
        single = isinstance(texts, str) or (tokens and all(isinstance(one, str) for one in texts) and len(texts) > 0)
        if tokens and single and not isinstance(texts, str) and any(len(one.split()) > 1 for one in texts):
            raise InferenceError(
                "a list of texts is read as words, and some hold spaces: give a list of lists of words"
            )
        self.check_pairs(pairs is not None)
        if pairs is not None and single != isinstance(pairs, str):
            raise InferenceError("one text and a list of texts: give one of each, or lists of one length")
        first, second = ([one] if single and one is not None else one for one in (texts, pairs))
        first, second = list(first or []), None if second is None else list(second)
        ids = [str(number) for number in range(len(first))]
        if tokens:
            words = [one.split() if isinstance(one, str) else one for one in first]
            strange = [one for one in words if not isinstance(one, list | tuple)]
            if strange:
                raise InferenceError(f"expected lists of words, found {type(strange[0]).__name__}: {strange[0]!s:.80}")
            return Examples(ids, None, self.labels, words=[_checked(list(one), "words") for one in words]), single
        if second is not None and len(first) != len(second):
            raise InferenceError(f"{len(first):,} texts and {len(second):,} second ones: expected one for each")
        first, second = _checked(first, "texts"), None if second is None else _checked(second, "texts")
        if self.kind == "questions":
            return Examples(ids, None, questions=first, contexts=second or []), single
        return Examples(ids, None, self.labels, texts=first, pairs=second), single

    def check_pairs(self, given: bool) -> None:
        """Refuse a second text that the model has no use for, or its absence.

        Raises:
            InferenceError: saying which.
        """
        if self.paired is None or given == self.paired:
            return
        what = {"questions": "a question and a context", "tokens": "one list of words"}.get(self.kind)
        expected = what or ("two texts" if self.paired else "one text")
        found = "a second text" if given else "one text alone"
        how = "" if given else "; give the second too: --pair, of a file --pair-column, in Python `pairs`"
        raise InferenceError(f"{self.name} reads {expected} for each example, found {found}{how}")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch's threads, which are the whole process's, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(values: list[Any], what: str) -> list[str]:
    strange = [one for one in values if not isinstance(one, str)]
    if strange:
        raise InferenceError(f"expected {what}, found {type(strange[0]).__name__}: {str(strange[0])[:80]}")
    return cast("list[str]", values)


def results_of(opened: OpenTask, split: Split, found: Scored) -> list[dict[str, Any]]:
    """What is said of each example, in the words of the files of predictions."""
    task = opened.task
    if task.kind == "questions":
        assert found.answers is not None
        return [_answered(found.answers, key) for key in split.examples.ids]
    if task.kind == "regression":
        return [{"label": value} for value in found.outputs.tolist()]
    return [labelled(shares, task.labels) for shares in class_shares(opened, split, found.outputs)]


def _answered(answers: Answers, key: str) -> dict[str, Any]:
    text, candidates, odds = answers.predictions[key], answers.n_best[key], answers.null_odds
    # Both are listed where either may be given: what is ahead of the best span is so with two places at least.
    chosen = next(one for one in candidates if (one.start < 0) == (text == ""))
    return {
        "answer": text,
        "probability": chosen.probability,
        "start": chosen.start,
        "end": chosen.end,
        "null_odds": None if odds is None else odds[key],
        "n_best": [one._asdict() for one in candidates],
    }
