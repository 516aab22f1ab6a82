"""Predictions of a split as files: which format each task gets, and what is in it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from ofa.config import TaskConfig
from ofa.data.task_rows import IGNORED
from ofa.data.tasks import TASKS, task_for
from ofa.downstream.answers import Answers, Candidate
from ofa.downstream.evaluation import Scored
from ofa.downstream.predictions import GLUE_FILES
from ofa.downstream.task_data import Split, TaskData
from ofa.downstream.write_predictions import GLUE_NAMES, write_predictions
from tests.task_parts import random_rows, tokenizer, word_examples

COLUMNS = {"path": "x", "text_column": "text", "label_column": "label"}


def written(folder, config, rows, found, split="validation", examples=None):
    """(names of the files in their order, their lines by name)."""
    ids = [f"id{number}" for number in range(len(rows) if rows is not None else 0)]
    part = Split(split, examples or SimpleNamespace(ids=ids), rows)
    data = TaskData(config, task_for(config), tokenizer(), part, part, "print")
    paths = write_predictions(folder, data, part, found)
    assert {path.parent for path in paths} == {folder / split}
    assert sorted(paths) == sorted((folder / split).iterdir())
    return [path.name for path in paths], {path.name: path.read_text().splitlines() for path in paths}


@pytest.mark.parametrize("name", GLUE_NAMES)
def test_every_task_of_glue_gets_a_plain_file_and_the_servers(tmp_path, name):
    task = TASKS[name]
    rows = random_rows(task.kind, 9, labels=len(task.labels))
    outputs = np.random.default_rng(1).normal(size=(9, len(task.labels)) if task.labels else 9).astype(np.float32)
    names, lines = written(tmp_path, TaskConfig(name=name), rows, Scored(outputs, {}))
    file = f"{GLUE_NAMES[name]}.tsv"
    assert names == ["predictions.jsonl", file] and lines[file][0] == "index\tprediction" and len(lines[file]) == 10
    plain = [json.loads(line) for line in lines["predictions.jsonl"]]
    assert [one["id"] for one in plain] == [f"id{number}" for number in range(9)]
    words = [line.split("\t")[1] for line in lines[file][1:]]
    if name == "stsb":
        assert [one["label"] for one in plain] == pytest.approx(outputs.tolist())
        assert [float(word) for word in words] == pytest.approx(np.clip(outputs, 0, 5).tolist(), abs=6e-4)
        return
    decided = [task.labels[number] for number in outputs.argmax(1)]
    assert [one["label"] for one in plain] == decided
    assert words == [GLUE_FILES[GLUE_NAMES[name]][label] for label in decided]
    shares = [[one["probabilities"][label] for label in task.labels] for one in plain]
    assert np.allclose(shares, softmax(outputs, axis=1), atol=1e-6)


def test_the_mismatched_split_has_a_file_of_its_own(tmp_path):
    rows = random_rows("classification", 4)
    found = Scored(np.eye(4, 3, dtype=np.float32), {})
    names, _ = written(tmp_path, TaskConfig(name="mnli"), rows, found, "validation_mismatched")
    assert names == ["predictions.jsonl", "MNLI-mm.tsv"]


def test_a_task_of_ones_own_gets_the_plain_file(tmp_path):
    config = TaskConfig(name="text_classification", labels=["x", "y", "z"], **COLUMNS)
    names, lines = written(tmp_path, config, random_rows("classification", 3), Scored(np.eye(3, dtype=np.float32), {}))
    assert names == ["predictions.jsonl"]
    assert [json.loads(line)["label"] for line in lines["predictions.jsonl"]] == ["x", "y", "z"]
    config = TaskConfig(name="text_regression", **COLUMNS)
    values = np.array([0.5, -7.0], dtype=np.float32)
    _, lines = written(tmp_path / "values", config, random_rows("regression", 2), Scored(values, {}))
    assert [json.loads(line) for line in lines["predictions.jsonl"]] == [
        {"id": "id0", "label": 0.5},
        {"id": "id1", "label": -7.0},
    ]


def test_words_have_a_label_each(tmp_path):
    """Of the tokens of a row those that begin a word; null where there is none, so that nothing shifts."""
    config = TaskConfig(name="token_classification", labels=["x", "y", "z"], **COLUMNS)
    rows = random_rows("tokens", 5)
    outputs = 9 * np.eye(3, dtype=np.float32)[np.where(rows.labels == IGNORED, 2, rows.labels)]
    words, examples = rows.words.copy(), word_examples(rows)
    words[::3] = -1
    unlabelled = replace(rows, words=words, labels=None)
    _, lines = written(tmp_path, config, unlabelled, Scored(outputs, {}), examples=examples)
    labels = iter(zip(examples.labels, words, strict=True))
    for line, own in zip(lines["predictions.jsonl"], examples.words, strict=True):
        one = json.loads(line)
        expected = [None if place < 0 else config.labels[label] for label, place in (next(labels) for _ in own)]
        assert one["label"] == expected
        assert [share is None for share in one["probabilities"]] == [label is None for label in expected]
    assert next(labels, None) is None


@pytest.mark.parametrize("odds", [None, {"q": -1.5}])
def test_answers_have_the_files_of_squads_script(tmp_path, odds):
    name = "squad" if odds is None else "squad_v2"
    answers = Answers({"q": "red"}, {"q": [Candidate("red", 2.0, 1.0, 0, 3)]}, odds)
    names, lines = written(tmp_path, TaskConfig(name=name), None, Scored(np.zeros((1, 2)), {}, answers))
    assert names == ["predictions.json", "nbest_predictions.json", *(["null_odds.json"] if odds else [])]
    assert json.loads("".join(lines["predictions.json"])) == {"q": "red"}
