"""A split's predictions as files, in the formats that GLUE's server and SQuAD's script take and in a plain one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import softmax

from ofa.downstream.evaluation import Scored
from ofa.downstream.predictions import write_classes, write_glue, write_squad, write_values
from ofa.downstream.scores import decisions
from ofa.downstream.task_data import OpenTask, Split

GLUE_NAMES = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI-m",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
"""What GLUE's server calls a task's file."""

MISMATCHED = {"MNLI-m": "MNLI-mm"}


def write_predictions(folder: Path, data: OpenTask, split: Split, found: Scored) -> list[Path]:
    """Write the predictions of a split below `folder`/<split>; returns the files.

    Raises:
        PredictionsError: a format cannot hold them.
    """
    folder = folder / split.name
    folder.mkdir(parents=True, exist_ok=True)
    task, ids, outputs = data.task, split.examples.ids, found.outputs
    if task.kind == "questions":
        assert found.answers is not None
        return write_squad(folder, found.answers)
    plain = folder / "predictions.jsonl"
    if task.kind == "regression":
        write_values(plain, ids=ids, values=outputs)
    else:
        write_classes(plain, ids=ids, probabilities=class_shares(data, split, outputs), names=data.labels)
    if task.name not in GLUE_NAMES:
        return [plain]
    name = GLUE_NAMES[task.name]
    name = MISMATCHED.get(name, name) if split.name.endswith("mismatched") else name
    return [plain, write_glue(folder, name, decisions(task.kind, outputs), data.labels)]


def class_shares(data: OpenTask, split: Split, outputs: np.ndarray) -> list[np.ndarray] | list[list[np.ndarray | None]]:
    """Softmax of each example; of tokens of each of its words, None where a word has no token."""
    shares = softmax(outputs.astype(np.float64), axis=-1)
    if data.task.kind == "classification":
        return list(shares)
    assert split.rows.words is not None
    places = iter(split.rows.words.tolist())
    by_example = ([next(places) for _ in words] for words in split.examples.words)
    return [[None if place < 0 else shares[place] for place in own] for own in by_example]
