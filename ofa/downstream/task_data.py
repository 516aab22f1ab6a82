"""A task's splits, read and encoded: what a fine-tuning run trains on and is scored by.

In: a config. Out: examples and rows of each split, the class names, the tokenizer, and one fingerprint of it all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ofa.config import FinetuneConfig, TaskConfig, parse
from ofa.data.task_records import source_of
from ofa.data.task_rows import TaskRows, encode, fingerprint
from ofa.data.task_sources import Examples, read_split
from ofa.data.tasks import NoSplitError, Task, TaskError, task_for
from ofa.export.hf import TOKENIZER_FILES
from ofa.models.adapters import adapter_for
from ofa.models.build import load_tokenizer, read_config
from ofa.models.place import ModelError, is_local

LOG = logging.getLogger(__name__)

WAITED_FOR = 2.0
"""Seconds from which the log says how long something took."""


@dataclass(frozen=True)
class Split:
    """One split of a task."""

    name: str
    examples: Examples
    rows: TaskRows

    def in_words(self, task: Task) -> str:
        """Counts for a line of the log, above all of what was cut or left out."""
        parts = [f"{len(self.examples):,} examples"]
        if len(self.rows) != len(self.examples):
            parts.append(f"{len(self.rows):,} windows")
        parts.append(f"{self.rows.lengths.mean():.0f} tokens on average")
        if self.rows.cut:
            parts.append(cut_in_words(self.rows.cut, task))
        if self.examples.dropped:
            parts.append(f"{self.examples.dropped:,} left out")
        return f"{task.name}, {self.name}: {', '.join(parts)}"


def cut_in_words(cut: int, task: Task) -> str:
    """What of some examples a model does not see: `3 texts cut at 128 tokens`."""
    what = {"tokens": "words without a token or", "questions": "questions"}.get(task.kind, "texts")
    return f"{cut:,} {what} cut at {task.max_length} tokens"


@dataclass(frozen=True)
class OpenTask:
    """A task whose classes are known, with the tokenizer that its splits are encoded by."""

    config: TaskConfig
    task: Task
    tokenizer: PreTrainedTokenizerFast

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their ids; none for regression and questions."""
        return self.task.labels

    @property
    def pad_id(self) -> int:
        """Padding token, which `load_tokenizer` has seen to."""
        return cast(int, self.tokenizer.pad_token_id)

    def read(self, split: str) -> Split:
        """A split.

        Raises:
            TaskError: it is not there, or damaged.
        """
        found = read_encoded(self.task, self.config, split, self.tokenizer)
        LOG.info("%s", found.in_words(self.task))
        return found


@dataclass(frozen=True)
class TaskData(OpenTask):
    """The splits of a task that a run needs."""

    train: Split
    validation: Split
    fingerprint: str
    """sha256 of the rows of both splits and of the class names."""

    def check_records(self) -> None:
        """Everything was looked at when it was read."""

    def others(self) -> list[Split]:
        """Further validation splits of the task (MNLI's mismatched one), as far as they are there; the log says which
        are not.

        Raises:
            TaskError: one is damaged.
        """
        names = [name for name in self.task.splits() if name.startswith("validation") and name != "validation"]
        found = []
        for name in names if self.config.split_column is None else []:
            try:
                found.append(self.read(name))
            except NoSplitError as absent:
                LOG.warning("not scored on %s: %s", name, absent)
        return found


def open_task_data(config: FinetuneConfig) -> TaskData:
    """Read and encode both splits; what was opened last in this process is kept.

    Raises:
        TaskError: files, columns or labels are not what they should be.
        ModelError: the model's tokenizer cannot be used, or its positions do not reach.
    """
    return _opened(config.task.model_dump_json(), config.model.init)


def read_encoded(task: Task, config: TaskConfig, split: str, tokenizer: PreTrainedTokenizerFast) -> Split:
    """One split with its rows.

    Raises:
        TaskError: as `ofa.data.task_sources.read_split`.
    """
    with _said(f"reading the {split} split of {task.name} from {source_of(task, config)}"):
        examples = read_split(task, config, split)
    with _said(f"tokenising {len(examples):,} rows of the {split} split"):
        rows = encode(examples, tokenizer, task.kind, task.max_length, config.stride)
    return Split(split, examples, rows)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say what begins, and how long it took where somebody has waited for it."""
    LOG.info("%s", what)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if took > WAITED_FOR:
        LOG.info("%s took %.0f s", what, took)


def tokenizer_folder(init: str, tokenizer: PreTrainedTokenizerFast, place: Path) -> Path:
    """A folder with the tokenizer's files: the model's own, or of a model from the hub copies in `place`."""
    local = Path(init).expanduser()
    if is_local(init) and any((local / name).is_file() for name in TOKENIZER_FILES):
        return local
    tokenizer.save_pretrained(place)
    return place


def check_length(task: Task, init: str) -> None:
    """Refuse rows longer than the model's positions.

    Raises:
        ModelError: with both lengths.
    """
    config = read_config(init)
    longest = adapter_for(config.model_type).longest_sequence(config)
    if task.max_length > longest:
        raise ModelError(
            f"task.max_length is {task.max_length} and the positions of {init} cover {longest} tokens: set "
            f"task.max_length to at most {longest}"
        )


def check_ids(rows: TaskRows, config: PreTrainedConfig, name: str) -> None:
    """Refuse tokens that the model has no vector for.

    Raises:
        ModelError: with the highest, and the size of the vocabulary.
    """
    entries, highest = config.vocab_size, int(rows.tokens.max())
    if highest >= entries:
        raise ModelError(
            f"the tokenizer of {name} gives the id {highest}, and the model's vocabulary has {entries} entries: put "
            "the model's own tokenizer beside it"
        )


@lru_cache(maxsize=1)
def _opened(task_config: str, init: str) -> TaskData:
    config = parse(TaskConfig, json.loads(task_config), origin="task")
    task = task_for(config)
    check_length(task, init)
    tokenizer = load_tokenizer(init)
    train = read_encoded(task, config, "train", tokenizer)
    if train.examples.class_names:
        task = replace(task, labels=train.examples.class_names)
    validation = read_encoded(task, config, "validation", tokenizer)
    parts = [fingerprint(train.rows, validation.rows), *task.labels, *_scored_by(validation.examples)]
    whole = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return TaskData(config, task, tokenizer, train, validation, whole)


def check_ranks_agree(fingerprints: Sequence[str]) -> None:
    """Hold what ranks have read, each by itself, against each other: other rows would give other divisors and other
    numbers of collective calls.

    Args:
        fingerprints: of each rank's data, by rank.

    Raises:
        TaskError: on every rank alike, naming the ranks that differ from the first.
    """
    other = [str(rank) for rank, one in enumerate(fingerprints) if one != fingerprints[0]]
    if other:
        raise TaskError(
            f"rank{'s' * (len(other) > 1)} {', '.join(other)} read other task data than rank 0: the files or the "
            "tokenizer differ between machines; give all of them the same"
        )


def _scored_by(examples: Examples) -> Iterator[str]:
    """What decides scores and stands in no row: the gold answers of questions."""
    for key, answers in zip(examples.ids, examples.answers or [], strict=False):
        yield json.dumps([key, [answer.text for answer in answers]])
