"""Scoring a task model on a split, over all ranks.

Rows go through the model in an order and in batches that do not depend on the number of ranks, and come back in their
own order, so scores are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ofa import dist
from ofa.data.task_batches import TaskBatch, TaskEvaluation, evaluation_batches
from ofa.data.task_rows import IGNORED, TaskRows
from ofa.data.tasks import Kind, Task
from ofa.downstream.answers import Answers, find_answers, withheld
from ofa.downstream.scores import ScoreError, check_finite, decisions, score, word_decisions
from ofa.downstream.squad import score_v1, score_v2
from ofa.downstream.task_data import OpenTask, Split


@dataclass(frozen=True)
class Scored:
    """A model's outputs on a split, and what they are worth."""

    outputs: np.ndarray
    """As `predict` gives them."""
    scores: dict[str, float]
    """`validation_loss` (mean label loss), then the task's metrics: fractions and coefficients, of questions percent as
    SQuAD's script prints them. Empty for a split without labels."""
    answers: Answers | None = None
    """Of questions."""


@torch.no_grad()
def predict(
    outputs_of: Callable[[TaskBatch], Tensor],
    rows: TaskRows,
    kind: Kind,
    *,
    pad_id: int,
    micro_size: int,
) -> np.ndarray:
    """Outputs for every row, on every rank (a collective call).

    Args:
        outputs_of: a micro-batch's logits, in evaluation mode.
        rows: of a split.
        kind: of task.
        pad_id: padding token.
        micro_size: rows of one forward.

    Returns:
        float32 [N, C] (classification), [N] (regression); of tokens and questions [T, C], row after row.
    """
    passed = evaluation_batches(
        rows, kind, pad_id, micro_size=micro_size, rank=dist.rank(), world_size=dist.world_size(), device=dist.device()
    )
    own = _outputs(outputs_of, passed, kind)
    return _in_order([pair for pairs in dist.gather_objects(own) for pair in pairs], rows, kind)


@torch.no_grad()
def predict_alone(
    outputs_of: Callable[[TaskBatch], Tensor],
    rows: TaskRows,
    kind: Kind,
    *,
    pad_id: int,
    micro_size: int,
    device: torch.device | str,
) -> np.ndarray:
    """What `predict` gives, computed by this process for itself on a device of its own, whoever started it."""
    passed = evaluation_batches(rows, kind, pad_id, micro_size=micro_size, device=device)
    return _in_order(_outputs(outputs_of, passed, kind), rows, kind)


def evaluate_split(module: nn.Module, kind: Kind, data: OpenTask, split: Split, *, micro_size: int) -> Scored:
    """Score a `TaskTraining` on a split (a collective call); leaves it in the mode in which it was."""
    was_training = module.training
    module.eval()
    outputs = predict(module, split.rows, kind, pad_id=data.pad_id, micro_size=micro_size)
    module.train(was_training)
    return scored(data, split, outputs)


def scored(data: OpenTask, split: Split, outputs: np.ndarray) -> Scored:
    """What outputs on a split are worth.

    Raises:
        ScoreError: an output is not finite.
    """
    check_finite(outputs)
    task, rows = data.task, split.rows
    if task.kind == "questions":
        given = answers_of(data, split, outputs)
        answers = withheld(given, data.config.null_threshold)
        return Scored(outputs, _losses(task.kind, outputs, rows) | _squad(task, split, given, answers), answers)
    if rows.labels is None:
        return Scored(outputs, {})
    return Scored(outputs, _losses(task.kind, outputs, rows) | score(task.metrics, *decided(task.kind, outputs, split)))


def decided(kind: Kind, outputs: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Decisions and labels; of tokens those of all words, whether they have a token or not."""
    rows, labels = split.rows, split.examples.labels
    assert labels is not None
    if kind == "tokens":
        assert rows.words is not None
        return word_decisions(outputs, rows.words), labels
    return decisions(kind, outputs), labels


def answers_of(data: OpenTask, split: Split, outputs: np.ndarray) -> Answers:
    """Answers of a split's questions, under the config's n_best and max_answer_tokens; none is withheld."""
    config, ends = data.config, np.cumsum(split.rows.lengths)[:-1]
    return find_answers(
        split.rows,
        np.split(outputs, ends),
        ids=split.examples.ids,
        contexts=split.examples.contexts,
        unanswerable=data.task.unanswerable,
        n_best=config.n_best,
        max_answer_tokens=config.max_answer_tokens,
        null_threshold=math.inf,
    )


def _losses(kind: Kind, outputs: np.ndarray, rows: TaskRows) -> dict[str, float]:
    return {} if rows.labels is None else {"validation_loss": label_loss(kind, outputs, rows)}


def label_loss(kind: Kind, outputs: np.ndarray, rows: TaskRows) -> float:
    """Mean label loss over what counts, in float64, as `ofa.models.task_training` defines it."""
    labels, values = rows.labels, outputs.astype(np.float64)
    assert labels is not None
    if kind == "regression":
        return float(np.square(values - labels).mean())
    if kind == "questions":
        return _span_loss(values, labels, rows.lengths)
    if kind == "tokens":
        values, labels = values[labels != IGNORED], labels[labels != IGNORED]
    peaks = values.max(axis=1)
    logs = np.log(np.exp(values - peaks[:, None]).sum(axis=1)) + peaks
    return float((logs - values[np.arange(len(values)), labels]).mean())


def _span_loss(values: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> float:
    """Mean over rows of the mean of start and end."""
    starts = np.cumsum(lengths) - lengths
    peaks = np.maximum.reduceat(values, starts)
    sums = np.add.reduceat(np.exp(values - np.repeat(peaks, lengths, axis=0)), starts)
    right = np.stack([values[starts + labels[:, side], side] for side in (0, 1)], axis=1)
    return float((np.log(sums) + peaks - right).mean())


def _squad(task: Task, split: Split, given: Answers, answers: Answers) -> dict[str, float]:
    """Scores of `answers`; the best threshold is searched over those that were `given` before any was withheld."""
    if split.examples.answers is None:
        return {}
    golds = {
        key: [answer.text for answer in gold]
        for key, gold in zip(split.examples.ids, split.examples.answers, strict=True)
    }
    if not task.unanswerable:
        return score_v1(golds, answers.predictions)
    found = score_v2(golds, answers.predictions)
    searched = score_v2(golds, given.predictions, null_odds=given.null_odds)
    best = {name: value for name, value in searched.items() if name.startswith("best_")}
    return {"exact_match": found.pop("exact"), **found, **best}


def _outputs(
    outputs_of: Callable[[TaskBatch], Tensor], passed: TaskEvaluation, kind: Kind
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, outputs without padding) of every batch that counts."""
    own = []
    for number, batch in enumerate(passed.batches):
        outputs = outputs_of(batch).float()
        if number < passed.counted:
            own.append((batch.row_ids.cpu().numpy(), _real(outputs, batch, kind).cpu().numpy()))
    return own


def _real(outputs: Tensor, batch: TaskBatch, kind: Kind) -> Tensor:
    """Outputs without padding: of tokens and questions [tokens of the batch, C], row after row."""
    return outputs[batch.attention_mask.bool()] if kind in ("tokens", "questions") else outputs


def _in_order(pieces: list[tuple[np.ndarray, np.ndarray]], rows: TaskRows, kind: Kind) -> np.ndarray:
    """One array out of batches of rows in any order.

    Raises:
        ScoreError: a row is missing or there twice: ranks read different data.
    """
    came = np.concatenate([row_ids for row_ids, _ in pieces])
    if len(came) != len(rows) or len(np.unique(came)) != len(rows):
        found = len(np.unique(came))
        raise ScoreError(f"outputs of {found} rows came together, expected {len(rows)}: ranks have read other data")
    first = pieces[0][1]
    if kind not in ("tokens", "questions"):
        whole = np.empty((len(rows), *first.shape[1:]), dtype=np.float32)
        for row_ids, outputs in pieces:
            whole[row_ids] = outputs
        return whole
    starts = np.cumsum(rows.lengths) - rows.lengths
    whole = np.empty((int(rows.lengths.sum()), *first.shape[1:]), dtype=np.float32)
    for row_ids, outputs in pieces:
        begin = 0
        for row in row_ids:
            length = rows.lengths[row]
            whole[starts[row] : starts[row] + length] = outputs[begin : begin + length]
            begin += length
    return whole
