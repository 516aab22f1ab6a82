"""Labelled examples of a task, from the user's files, the original ones or the hub.

In: the task's row, the config, the name of a split. Out: `Examples`, columns of checked texts and of labels as numbers;
or an error that names file and line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from ofa.data import counter
from ofa.data.task_readers import Record
from ofa.data.task_records import read_records, source_of
from ofa.data.task_squad import Answer, Question, question_of
from ofa.data.task_values import OPTION, Column, Label, label_of, text_of, words_of
from ofa.data.tasks import Task, TaskError
from ofa.sections.finetune import TaskConfig

ID_COLUMNS = ("index", "idx", "id")
"""Where an example's id is looked for; without them, examples are numbered from 0."""

SHOWN_LABELS = 20
"""Class names that an error gives."""


@dataclass(frozen=True)
class Examples:
    """N examples of one split; columns that the task's kind has no use for are empty."""

    ids: list[str]
    """[N]"""
    labels: np.ndarray | None
    """classification int64 [N], class ids; regression float32 [N]; tokens int64, class ids of all words end to end.
    None: the split has no labels; questions have `answers`."""
    class_names: tuple[str, ...] = ()
    """In the order of the ids; a task whose row has none is given those of its training split before others are read:
    `dataclasses.replace(task, labels=train.class_names)`."""
    texts: list[str] = field(default_factory=list)
    """[N]"""
    pairs: list[str] | None = None
    """[N] second texts; None: single texts."""
    words: list[list[str]] = field(default_factory=list)
    """[N]"""
    questions: list[str] = field(default_factory=list)
    """[N]"""
    contexts: list[str] = field(default_factory=list)
    """[N]"""
    answers: list[tuple[Answer, ...]] | None = None
    """[N], () where a question has none; None: not a task of questions, or the split has no answers."""
    dropped: int = 0
    """Examples left out, as the config or the task's row allow."""

    def __len__(self) -> int:
        return len(self.ids)


def read_split(task: Task, config: TaskConfig, split: str) -> Examples:
    """The examples of `split`: `train`, `validation`, or another one that the task's row or the split column knows.

    Only `train` is read without class names in the task's row: it says which there are, sorted by name, or by value if
    all are whole numbers.

    Raises:
        TaskError: naming file and line: a column, label or answer that is missing or not usable; an empty split; fewer
            examples than asked for.
    """
    counts: Counter[str] = Counter()
    records = read_records(task, config, split, counts)
    labelled = not (split.startswith("test") and task.files)
    limit = config.train_rows if split == "train" else config.validation_rows if _is_validation(split) else None
    if task.kind == "questions":
        found = _questions(task, _part(records, limit, split), labelled)
    else:
        assert task.labels or task.kind == "regression" or split == "train", "the training split says the classes"
        rows = _with_labels(records, task, config, counts) if labelled else ((record, None) for record in records)
        found = (_words if task.kind == "tokens" else _texts)(task, config, _part(rows, limit, split))
    dropped = sum(counts.values())
    aside = f" ({dropped} were left out)" if dropped else ""
    where = f"{source_of(task, config)}: the {split} split"
    if not len(found):
        raise TaskError(f"{where} has no examples{aside}")
    if limit is not None and len(found) < limit:
        key = "train_rows" if split == "train" else "validation_rows"
        raise TaskError(f"{where} has {len(found)} examples{aside}, asked for {limit}; leave task.{key} out")
    if task.kind in ("classification", "tokens") and len(found.class_names) < 2:
        only = ", ".join(found.class_names)
        raise TaskError(f"{where} has one class only: {only}; add examples of others, or name all in task.labels")
    return replace(found, dropped=dropped)


def unlabelled(task: Task, config: TaskConfig, records: Sequence[Record], option: str) -> Examples:
    """Examples of records that need no label, whose ids are their numbers: ids of others may be there twice.

    Args:
        task, config: where the texts are; questions have theirs in the column of the text, contexts in the pair's.
        records: at least one.
        option: how a column is named by who asks, `--{}-column`.

    Raises:
        TaskError: naming file and line: a column that is missing, or holds no text.
    """
    rows: list[_Row] = [(record, None) for record in records]
    ids = [str(number) for number in range(len(rows))]
    if task.kind == "tokens":
        column = Column.of(task, config, "text", option)
        return Examples(ids, None, task.labels, words=[words_of(column, record) for record in records])
    found = replace(_texts(task, config, rows, option), ids=ids)
    if task.kind == "questions":
        return replace(found, texts=[], pairs=None, questions=found.texts, contexts=found.pairs or [])
    return found


T = TypeVar("T")


def _part(rows: Iterable[T], limit: int | None, split: str) -> list[T]:
    """All rows, or `limit` of them in their order: a random part, since files are often sorted by class; always the
    same one."""
    every = list(rows)
    if limit is None or limit >= len(every):
        return every
    chosen = np.sort(counter.permutation(counter.key(0, "part", split), len(every))[:limit])
    return [every[place] for place in chosen]


_Row = tuple[Record, Label | None]


def _texts(task: Task, config: TaskConfig, rows: list[_Row], option: str = OPTION) -> Examples:
    """Single texts or pairs, with a class or a number each."""
    text = Column.of(task, config, "text", option)
    pair = None if task.pair is None else Column.of(task, config, "pair", option)
    labels = [label for _, label in rows if label is not None]
    if task.kind == "classification":
        classes, numbers = _numbered(task, [str(label) for label in labels])
    else:
        classes, numbers = (), np.array(labels, dtype=np.float32) if labels else None
    return Examples(
        ids=_ids(rows),
        labels=numbers,
        class_names=classes,
        texts=[text_of(text, record) for record, _ in rows],
        pairs=None if pair is None else [text_of(pair, record) for record, _ in rows],
    )


def _words(task: Task, config: TaskConfig, rows: list[_Row]) -> Examples:
    """Lists of words, with a class for each word."""
    column = Column.of(task, config, "text")
    words = [words_of(column, record) for record, _ in rows]
    names: list[str] = []
    for (record, label), own in zip(rows, words, strict=True):
        if not own:
            raise TaskError(f"{record.where}: no words; remove it")  # a batch of such rows would have nothing to learn
        labels = label if isinstance(label, list) else []
        if label is not None and len(labels) != len(own):
            raise TaskError(f"{record.where}: {len(own)} words and {len(labels)} labels; every word needs one")
        names += labels
    classes, numbers = _numbered(task, names)
    return Examples(ids=_ids(rows), labels=numbers, class_names=classes, words=words)


def _questions(task: Task, records: Iterable[Record], labelled: bool) -> Examples:
    found: dict[str, Question] = {}
    for record in records:
        one = question_of(record.values, record.where, labelled=labelled, unanswerable=task.unanswerable)
        if found.setdefault(one.id, one) is not one:
            raise TaskError(f"{record.where}: the question's id {one.id} was there before; ids must differ")
    every = list(found.values())
    return Examples(
        ids=list(found),
        labels=None,
        questions=[one.question for one in every],
        contexts=[one.context for one in every],
        answers=[one.answers for one in every] if labelled else None,
    )


def _with_labels(records: Iterator[Record], task: Task, config: TaskConfig, counts: Counter[str]) -> Iterator[_Row]:
    """Records with their checked labels; those whose label is not among the task's are refused, or left out."""
    column = Column.of(task, config, "label")
    known = frozenset(task.labels)
    for record in records:
        label = label_of(task, column, record)
        if task.kind == "regression" or not known:
            yield record, label
            continue
        unknown = [one for one in (label if isinstance(label, list) else [label]) if one not in known]
        if not unknown:
            yield record, label
        elif config.other_labels == "drop":
            counts["other labels"] += 1
        else:
            raise TaskError(
                f"{record.where}: unknown label {unknown[0]!r}; known: {_shortened(task.labels)}; are these "
                f"data of {task.name}? Mend it, name all classes in task.labels, or set task.other_labels=drop"
            )


def _numbered(task: Task, names: list[str]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names in their order, and the id of each name in `names`, int64; None for a split without labels."""
    classes = task.labels or tuple(sorted(set(names), key=_by_value if all(map(str.isdecimal, names)) else None))
    ids = {name: number for number, name in enumerate(classes)}
    return classes, np.array([ids[name] for name in names], dtype=np.int64) if names else None


def _by_value(name: str) -> tuple[int, str]:
    return int(name), name


def _ids(rows: list[_Row]) -> list[str]:
    """The first of ID_COLUMNS that the first example has, else numbers."""
    column = next((name for name in ID_COLUMNS if rows and name in rows[0][0].values), None)
    if column is None:
        return [str(number) for number in range(len(rows))]
    return [str(record.values.get(column)) for record, _ in rows]


def _is_validation(split: str) -> bool:
    return split.startswith("validation")


def _shortened(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(labels[:SHOWN_LABELS]) + more
