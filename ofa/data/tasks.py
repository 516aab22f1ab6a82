"""The tasks that can be fine-tuned, one row each: GLUE, SQuAD, and the generic ones over a user's own columns.

In: the config's `task` section. Out: its row, with the config's columns and labels in place of the row's own. Nothing
here reads an example or imports a library of models, so that bad input is refused before torch is there.

Each source could have had a reader of its own, as GLUE's published processors do; a table of names serves the original
files, parquet and the hub alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ofa.sections.base import nearest
from ofa.sections.finetune import TaskConfig

Kind = Literal["classification", "regression", "tokens", "questions"]

WORDS_LENGTH, QUESTIONS_LENGTH = 128, 384
"""Tokens of a row where the config says nothing."""


class TaskError(ValueError):
    """A task, its files or its labels that cannot be used: what was found, what was expected, where."""


class NoSplitError(TaskError):
    """A split that the data do not have, which for further validation splits is no fault."""


@dataclass(frozen=True)
class Hub:
    """The task's dataset on the hub, whose columns are called otherwise than in the original files."""

    dataset: str
    subset: str | None
    text: str
    pair: str | None
    label: str
    splits: Mapping[str, str] = field(default_factory=dict)
    """What the dataset calls our splits, where it is not the same."""


@dataclass(frozen=True)
class Task:
    """One task. Columns are names in the files' header; if all of them are whole numbers, the files have no header and
    columns are counted from 0."""

    name: str
    kind: Kind
    """`classification` of a text or a pair, `regression` likewise, `tokens`: a class for every word, `questions`: a
    span of a context."""
    text: str
    """Column of the text; of the words (`tokens`)."""
    pair: str | None
    """Column of the second text."""
    label: str
    """Column of the label."""
    labels: tuple[str, ...]
    """Class names, in the order of the ids of the published datasets; () where the data say them."""
    metrics: tuple[str, ...]
    """What is reported, in this order (`ofa.downstream.scores`)."""
    best: str
    """The metric whose highest value picks the checkpoint that is exported: where a task has several, the one that its
    published tables lead with or sort by."""
    max_length: int = WORDS_LENGTH
    """Tokens of a row, unless the config says otherwise."""
    spellings: Mapping[str, str] = field(default_factory=dict)
    """Other ways of writing a class name: the original files of most tasks and the hub give its id."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Original file names of each split, the first that is there; `train` and `validation` are needed for training,
    further ones can be evaluated, those that begin with `test` have no labels."""
    header: tuple[str, ...] = ()
    """Columns of files whose first line does not name them."""
    hub: Hub | None = None
    unanswerable: bool = False
    """Questions may have no answer in their context."""
    drops_short_lines: bool = False
    """Lines with too few columns are left out and counted; otherwise they are errors."""

    def splits(self) -> list[str]:
        """Names of the splits that the row knows."""
        return list(self.files) if self.files else ["train", "validation"]


_TSV = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
_MNLI_FILES = {
    "train": ("train.tsv",),
    "validation": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
    "test": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}
_MNLI_SPLITS = {"validation": "validation_matched", "test": "test_matched"}


def _ids(labels: tuple[str, ...]) -> dict[str, str]:
    """Published ids, as they are written, and the names that they stand for."""
    return {str(number): name for number, name in enumerate(labels)}


def _glue(
    name: str,
    columns: tuple[str, str | None, str],
    hub_columns: tuple[str, str | None],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    *,
    best: str | None = None,
    files: Mapping[str, tuple[str, ...]] = _TSV,
    header: tuple[str, ...] = (),
    hub_splits: Mapping[str, str] | None = None,
    drops_short_lines: bool = False,
) -> Task:
    """A row of GLUE; the leading metric is the first, unless `best` is given."""
    return Task(
        name,
        "classification" if labels else "regression",
        *columns,
        labels,
        metrics,
        best or metrics[0],
        spellings=_ids(labels),
        files=files,
        header=header,
        hub=Hub("nyu-mll/glue", name, *hub_columns, "label", hub_splits or {}),
        drops_short_lines=drops_short_lines,
    )


def _squad(name: str, version: str, unanswerable: bool) -> Task:
    return Task(
        name,
        "questions",
        "question",
        "context",
        "answers",
        (),
        ("exact_match", "f1"),
        best="f1",  # the published tables sort by it
        max_length=QUESTIONS_LENGTH,
        files={"train": (f"train-{version}.json",), "validation": (f"dev-{version}.json",)},
        hub=Hub(f"rajpurkar/{name}", None, "question", "context", "answers"),
        unanswerable=unanswerable,
    )


_SENTENCES = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

_ROWS = (
    _glue(
        "cola",
        ("sentence", None, "label"),
        ("sentence", None),
        ("unacceptable", "acceptable"),
        ("matthews",),
        header=("source", "label", "mark", "sentence"),
    ),
    _glue("sst2", ("sentence", None, "label"), ("sentence", None), ("negative", "positive"), ("accuracy",)),
    _glue(
        "mrpc",
        ("#1 String", "#2 String", "Quality"),
        _SENTENCES,
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),  # GLUE's paper leads with F1 here, because two thirds are paraphrases
    ),
    _glue("stsb", (*_SENTENCES, "score"), _SENTENCES, (), ("pearson", "spearman")),
    _glue(
        "qqp",
        ("question1", "question2", "is_duplicate"),
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),  # Prune-OFA's tables lead with accuracy
        drops_short_lines=True,  # a line break inside a question cuts a few lines of the published train.tsv in two
    ),
    _glue(
        "mnli",
        (*_SENTENCES, "gold_label"),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),  # of the matched split, as everywhere
        files=_MNLI_FILES,
        hub_splits=_MNLI_SPLITS,
    ),
    _glue("qnli", ("question", "sentence", "label"), ("question", "sentence"), _ENTAILMENT, ("accuracy",)),
    _glue("rte", (*_SENTENCES, "label"), _SENTENCES, _ENTAILMENT, ("accuracy",)),
    _glue("wnli", (*_SENTENCES, "label"), _SENTENCES, ("not_entailment", "entailment"), ("accuracy",)),
    _squad("squad", "v1.1", unanswerable=False),
    _squad("squad_v2", "v2.0", unanswerable=True),
    Task("text_classification", "classification", "", None, "", (), ("accuracy", "f1_macro"), "accuracy"),
    Task("text_regression", "regression", "", None, "", (), ("pearson", "spearman", "mse"), "pearson"),
    # over words, each with a class of its own; spans of named entities are not put together
    Task("token_classification", "tokens", "", None, "", (), ("accuracy", "f1_macro"), "accuracy"),
)

TASKS: dict[str, Task] = {row.name: row for row in _ROWS}
"""Every task by its name."""


def task_for(config: TaskConfig) -> Task:
    """The row of `config.name`, with the config's columns, labels and max_length in place of the row's.

    Raises:
        TaskError: no such task, a generic task without its columns, or a value that the task has no use for.
    """
    if config.name not in TASKS:
        raise TaskError(f"task.name: no task {config.name!r}{nearest(config.name, list(TASKS))}")
    row = TASKS[config.name]
    if row.kind == "questions":
        _refuse_columns(config)
    _check_use(row, config)
    task = replace(
        row,
        text=config.text_column or row.text,
        pair=config.pair_column or row.pair,
        label=config.label_column or row.label,
        labels=tuple(config.labels or row.labels),
        max_length=config.max_length or row.max_length,
    )
    missing = [key for key, value in (("text_column", task.text), ("label_column", task.label)) if not value]
    if missing:
        raise TaskError(
            f"task {task.name} reads columns of your own: give {' and '.join(f'task.{k}' for k in missing)}"
        )
    if row.hub is None and config.path is None and config.dataset is None:
        raise TaskError(f"task {task.name} has no data of its own: give task.path (a folder) or task.dataset")
    return task


def _refuse_columns(config: TaskConfig) -> None:
    """SQuAD's files are objects within objects, not tables."""
    given = [
        f"task.{key}"
        for key in ("text_column", "pair_column", "label_column", "labels", "split_column")
        if getattr(config, key) is not None
    ]
    if given:
        raise TaskError(f"task {config.name} has a layout of its own: remove {', '.join(given)}")


def _check_use(row: Task, config: TaskConfig) -> None:
    """Values that would be read by nobody are mistakes."""
    if row.kind == "regression" and config.labels is not None:
        raise TaskError(f"task {row.name} predicts a number and has no classes: remove task.labels")
    if row.kind == "tokens" and config.pair_column is not None:
        raise TaskError(f"task {row.name} reads one list of words a row: remove task.pair_column")
    if config.other_labels == "drop" and not (config.labels or row.labels):
        raise TaskError(f"task {row.name}: other_labels is drop, but nothing says which labels stay; give task.labels")
