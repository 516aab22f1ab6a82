"""A teacher's answers kept in the run folder: made once, used again only for what they were made of."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ofa.config import FinetuneConfig, TaskConfig
from ofa.data.tasks import task_for
from ofa.downstream import taught
from ofa.downstream.task_data import Split, TaskData
from ofa.downstream.taught import OUTPUTS_FILE, cached, warn_of_a_bad_teacher
from ofa.models.task_training import TaskTeacher, TaughtRows
from tests.task_parts import KINDS, batch_of, random_rows, small_model, tokenizer

COLUMNS = {"path": "x", "text_column": "text", "label_column": "label"}
CONFIGS = {
    "classification": TaskConfig(name="text_classification", labels=["a", "b", "c"], **COLUMNS),
    "regression": TaskConfig(name="text_regression", **COLUMNS),
    "tokens": TaskConfig(name="token_classification", labels=["a", "b", "c"], **COLUMNS),
    "questions": TaskConfig(name="squad", path="x"),
}


def config_of(cache=None, **values):
    return FinetuneConfig.model_validate(
        {
            "model": {"init": "x"},
            "teacher": {"init": "y", "cache": cache},
            "task": {"name": "sst2"},
            "batch": {"global_size": 8, "micro_size": 4},
            "optimizer": {"lr": 1e-4},
            **values,
        }
    )


def data_of(kind, rows, fingerprint="data"):
    split = Split("train", SimpleNamespace(), rows)
    return TaskData(CONFIGS[kind], task_for(CONFIGS[kind]), tokenizer(), split, split, fingerprint)


class Counted(TaskTeacher):
    """A teacher that counts how often it is asked."""

    asked = 0

    def targets(self, batch):
        self.asked += 1
        return super().targets(batch)


def teacher(kind="classification", order=None):
    return Counted(small_model("bert", kind, seed=5), kind, order)


@pytest.fixture
def ask(tmp_path):
    """ask(teacher, ...) -> what the run gets to ask."""
    rows = random_rows("classification", 13)

    def make(one, config=None, *, data="data", epochs=3.0, fingerprint="weights", kind="classification", rows=rows):
        known = data_of(kind, rows, data)
        return cached(config or config_of(), known, one, epochs=epochs, folder=tmp_path, fingerprint=fingerprint)

    return make


@pytest.mark.parametrize("order", [None, [2, 0, 1]])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_looked_up_is_what_the_teacher_says(ask, kind, order):
    """OFA-20 too: kept in the student's order."""
    one = teacher(kind, order if kind in ("classification", "tokens") else None)
    rows = random_rows(kind, 13)
    kept = ask(one, kind=kind, rows=rows)
    assert isinstance(kept, TaughtRows)
    for ids in ([3, 12, 0], [7]):
        batch, _ = batch_of(rows, kind, ids)
        real = batch.attention_mask.bool() if kind in ("tokens", "questions") else ...
        assert torch.allclose(kept.targets(batch)[real], one.targets(batch)[real], atol=1e-5)


def test_a_run_that_continues_reads_what_is_there(ask, tmp_path):
    first, second = teacher(), teacher()
    values = ask(first).values
    assert first.asked == 4 and (tmp_path / OUTPUTS_FILE).is_file()
    assert torch.equal(ask(second).values, values) and second.asked == 0


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "other weights"}, {"data": "other rows"}, {"config": config_of(engine={"precision": "bf16"})}],
)
def test_answers_of_another_teacher_rows_or_precision_are_made_again(ask, other):
    ask(teacher())
    again = teacher()
    ask(again, **other)
    assert again.asked == 4


def test_answers_in_another_order_are_made_again(ask):
    values = ask(teacher()).values
    permuted = teacher(order=[2, 0, 1])
    assert torch.equal(ask(permuted).values, values[:, [2, 0, 1]]) and permuted.asked == 4


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_file_that_is_damaged_or_cut_short_is_made_again(ask, tmp_path, damage):
    values = ask(teacher()).values
    path = tmp_path / OUTPUTS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] if damage is None else damage)
    again = teacher()
    assert torch.equal(ask(again).values, values) and again.asked == 4 and path.read_bytes() == whole


def test_the_teacher_is_asked_in_each_step_where_that_is_cheaper_or_wanted(ask, monkeypatch, tmp_path):
    """Rows that are read once; outputs beyond the limit; the config's word before both."""
    one = teacher()
    assert ask(one, epochs=1.0) is one and ask(one, config_of(cache=False)) is one
    assert isinstance(ask(one, config_of(cache=True), epochs=1.0), TaughtRows)
    (tmp_path / OUTPUTS_FILE).unlink()
    monkeypatch.setattr(taught, "LARGEST", 4 * 13 * 3 - 1)
    assert ask(one) is one and not (tmp_path / OUTPUTS_FILE).exists()
    monkeypatch.setattr(taught, "LARGEST", 4 * 13 * 3)
    assert isinstance(ask(one), TaughtRows)


def test_rows_of_one_token_each_are_no_rows_with_one_output(ask):
    """As many tokens as rows: the kind says whether outputs are the tokens'."""
    rows = random_rows("tokens", 3)
    single = replace(
        rows,
        tokens=rows.tokens[:3],
        token_types=rows.token_types[:3],
        labels=rows.labels[:3],
        lengths=rows.lengths * 0 + 1,
    )
    kept = ask(teacher("tokens"), kind="tokens", rows=single)
    batch, _ = batch_of(single, "tokens")
    assert kept.targets(batch).shape == (3, 1, 3)


def test_a_teacher_that_is_worse_than_one_class_for_all_is_called_out(caplog):
    """OFA-20: classes without names are taken in order; a wrong order must not go unseen."""
    caplog.set_level("INFO", logger="ofa")
    labels = np.array([0] * 6 + [1] * 4)
    rows = SimpleNamespace(labels=labels)
    data = SimpleNamespace(train=SimpleNamespace(rows=rows))
    warn_of_a_bad_teacher(labels, data)
    assert "right on 100.0 % of the training rows" in caplog.text and "another order" not in caplog.text
    warn_of_a_bad_teacher(1 - labels, data)
    assert "less than the most frequent class for all (60.0 %)" in caplog.text and "teacher.labels" in caplog.text
