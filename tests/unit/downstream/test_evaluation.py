"""Scoring: outputs come back in the rows' order however they were batched, and the loss is the one that is trained."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.config import TaskConfig, TaskObjectiveConfig
from ofa.data.task_rows import IGNORED, encode
from ofa.data.task_sources import Examples
from ofa.data.task_squad import Answer
from ofa.data.tasks import task_for
from ofa.downstream.evaluation import _in_order, decided, evaluate_split, label_loss, predict, scored
from ofa.downstream.scores import ScoreError
from ofa.downstream.task_data import Split, TaskData
from ofa.models.task_training import TaskTraining
from tests.task_parts import KINDS, PAD, batch_of, random_rows, small_model, tokenizer, word_examples

COLUMNS = {"path": "x", "text_column": "text", "label_column": "label"}
CONFIGS = {
    "classification": TaskConfig(name="text_classification", labels=["a", "b", "c"], **COLUMNS),
    "regression": TaskConfig(name="text_regression", **COLUMNS),
    "tokens": TaskConfig(name="token_classification", labels=["a", "b", "c"], **COLUMNS),
}
METRICS = {"classification": ("accuracy", "f1_macro"), "regression": ("pearson", "spearman", "mse")}
METRICS["tokens"] = METRICS["classification"]


def echo(kind):
    """Outputs that say which token or row they are of: its ids, summed up to there."""

    def outputs(batch):
        so_far = (batch.input_ids * batch.attention_mask).cumsum(1).float()
        if kind in ("tokens", "questions"):
            return torch.stack([so_far, so_far + 0.5], dim=-1)
        last = so_far[:, -1]
        return last if kind == "regression" else torch.stack([last, -last, batch.row_ids.float()], dim=-1)

    return outputs


@settings(deadline=None, max_examples=40)
@given(kind=st.sampled_from(KINDS), micro=st.integers(1, 30), count=st.integers(1, 25), seed=st.integers(0, 9))
def test_outputs_are_in_the_rows_own_order_whatever_the_micro_size(kind, micro, count, seed):
    rows = random_rows(kind, count, seed=seed)
    found = predict(echo(kind), rows, kind, pad_id=PAD, micro_size=micro)
    sums = [part.cumsum() for part in np.split(rows.tokens.astype(np.float32), np.cumsum(rows.lengths)[:-1])]
    if kind in ("tokens", "questions"):
        whole = np.concatenate(sums)
        expected = np.stack([whole, whole + 0.5], axis=1)
    else:
        last = np.array([one[-1] for one in sums])
        expected = last if kind == "regression" else np.stack([last, -last, np.arange(count)], axis=1)
    assert found.dtype == np.float32 and found.shape == expected.shape and (found == expected).all()


def training(kind):
    return TaskTraining(small_model("bert", kind), kind, TaskObjectiveConfig(ce_weight=1.0, kd_weight=0.0)).eval()


@pytest.mark.parametrize("micro", [1, 4, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_validation_loss_is_the_label_loss_that_is_trained(kind, micro):
    """Two ways to one number: over outputs in numpy, and over the module's batches."""
    rows, module = random_rows(kind, 23, seed=3), training(kind)
    batch, totals = batch_of(rows, kind)
    expected = module(batch, totals)[1]["label_loss"].item()
    outputs = predict(module, rows, kind, pad_id=PAD, micro_size=micro)
    assert label_loss(kind, outputs, rows) == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_large_outputs_is_finite():
    rows = random_rows("classification", 5)
    outputs = np.full((5, 3), 1e4, dtype=np.float32)
    assert label_loss("classification", outputs, rows) == pytest.approx(np.log(3))


def data_of(kind, rows, examples=None):
    """A task's data that are these rows alone."""
    task = task_for(CONFIGS[kind])
    if kind == "tokens":
        examples = word_examples(rows)
    split = Split("validation", examples or SimpleNamespace(answers=None, labels=rows.labels), rows)
    return TaskData(CONFIGS[kind], task, tokenizer(), split, split, "print"), split


def perfect(kind, rows):
    """Outputs that say every label."""
    if kind == "regression":
        return rows.labels.copy()
    return 9 * np.eye(3, dtype=np.float32)[np.where(rows.labels == IGNORED, 0, rows.labels)]


@pytest.mark.parametrize("kind", METRICS)
def test_each_kind_is_scored_by_its_metrics(kind):
    rows = random_rows(kind, 30, seed=1)
    data, split = data_of(kind, rows)
    best = scored(data, split, perfect(kind, rows))
    assert list(best.scores) == ["validation_loss", *METRICS[kind]] and best.answers is None
    assert [best.scores[name] for name in METRICS[kind]] == pytest.approx(
        [0.0 if n == "mse" else 1 for n in METRICS[kind]]
    )
    worse = perfect(kind, rows)
    worse[:10] = worse[:10][..., ::-1] if kind != "regression" else worse[:10] + 2
    other = scored(data, split, worse).scores
    assert other["validation_loss"] > best.scores["validation_loss"] and other[METRICS[kind][0]] < 1.0


def test_of_tokens_those_alone_that_begin_a_word_are_scored():
    rows = random_rows("tokens", 12)
    data, split = data_of("tokens", rows)
    outputs = perfect("tokens", rows)
    outputs[rows.labels == IGNORED] = [0.0, 0.0, 50.0]
    assert scored(data, split, outputs).scores == scored(data, split, perfect("tokens", rows)).scores
    predictions, labels = decided("tokens", outputs, split)
    assert len(labels) == (rows.labels != IGNORED).sum() and (predictions == labels).all()


def test_words_without_a_token_are_wrong():
    """Leaving them out would make a model look better the less it reads."""
    rows = random_rows("tokens", 12)
    data, split = data_of("tokens", rows)
    words = rows.words.copy()
    words[::4] = -1
    lost = (words < 0).sum() / len(words)
    found = scored(data, replace(split, rows=replace(rows, words=words)), perfect("tokens", rows)).scores
    assert found["accuracy"] == pytest.approx(1 - lost)
    assert 1 - lost < found["f1_macro"] < 1, "precision is not harmed, recall is"


@pytest.mark.parametrize("kind", METRICS)
def test_a_split_without_labels_has_outputs_and_no_scores(kind):
    rows = random_rows(kind)
    outputs = perfect(kind, rows)
    data, split = data_of(kind, replace(rows, labels=None))
    found = scored(data, split, outputs)
    assert found.scores == {} and found.outputs is outputs


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(bad):
    rows = random_rows("classification")
    data, split = data_of("classification", rows)
    outputs = perfect("classification", rows)
    outputs[2, 1] = bad
    with pytest.raises(ScoreError, match="of 1 of 7 rows are not finite, first in row 2"):
        scored(data, split, outputs)


@pytest.mark.parametrize("was_training", [True, False])
def test_a_model_is_scored_without_dropout_and_left_in_its_mode(was_training):
    rows = random_rows("classification", 9)
    data, split = data_of("classification", rows)
    module = training("classification").train(was_training)
    first, second = (evaluate_split(module, "classification", data, split, micro_size=4) for _ in range(2))
    assert (first.outputs == second.outputs).all() and module.training == was_training
    assert not any(parameter.grad is not None for parameter in module.parameters())


# ---- questions ------------------------------------------------------------------------------------------------------

CONTEXT = "the red is good . 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 the blue is bad"
QUESTIONS = [("who is good", "the red", 0), ("who is bad", "blue", CONTEXT.index("blue")), ("who", None, 0)]


def questions(name, asked):
    """(data, split) of questions in windows of 24 tokens."""
    config = TaskConfig(name=name, path="x", max_length=24, stride=8, n_best=5)
    examples = Examples(
        ids=[f"q{number}" for number in range(len(asked))],
        labels=None,
        questions=[one[0] for one in asked],
        contexts=[CONTEXT] * len(asked),
        answers=[() if one[1] is None else (Answer(one[1], one[2]),) for one in asked],
    )
    rows = encode(examples, tokenizer(), "questions", 24, 8)
    split = Split("validation", examples, rows)
    return TaskData(config, task_for(config), tokenizer(), split, split, "print"), split


def at_labels(rows):
    """Start and end logits that are highest at the labels."""
    starts = np.cumsum(rows.lengths) - rows.lengths
    outputs = np.zeros((int(rows.lengths.sum()), 2), dtype=np.float32)
    for side in (0, 1):
        outputs[starts + rows.labels[:, side], side] = 9
    return outputs


def test_questions_are_scored_over_their_windows():
    data, split = questions("squad", QUESTIONS[:2])
    assert len(split.rows) > 2
    found = scored(data, split, at_labels(split.rows))
    assert found.answers.predictions == {"q0": "the red", "q1": "blue"}
    assert {k: v for k, v in found.scores.items() if k != "validation_loss"} == {"exact_match": 100.0, "f1": 100.0}
    assert found.scores["validation_loss"] < 0.1 and list(found.scores)[0] == "validation_loss"
    none = scored(data, split, np.zeros_like(found.outputs))
    assert none.scores["exact_match"] == 0 and none.scores["validation_loss"] > 2


def test_a_question_may_have_no_answer():
    """SQuAD v2's exact match has the name of the task's metric."""
    data, split = questions("squad_v2", QUESTIONS)
    found = scored(data, split, at_labels(split.rows))
    assert found.answers.predictions == {"q0": "the red", "q1": "blue", "q2": ""}
    assert (found.scores["exact_match"], found.scores["f1"]) == (100.0, 100.0) and "exact" not in found.scores
    assert set(data.task.metrics) < set(found.scores)


def test_rows_that_no_rank_has_are_noticed():
    """Ranks that read different files would otherwise leave memory in the outputs that nobody wrote."""
    rows = random_rows("classification", 3)
    one = np.zeros((1, 2), dtype=np.float32)
    for came in ([0, 1], [0, 1, 1]):
        with pytest.raises(ScoreError, match="of 2 rows came together, expected 3"):
            _in_order([(np.array([row]), one) for row in came], rows, "classification")
