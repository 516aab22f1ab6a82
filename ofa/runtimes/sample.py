"""Rows on which an exported model is held against the one it came from.

Those of the model's own task are taken where they can be read, by what its run or its recipe says or by what the
caller gives. Where they cannot, rows are drawn from the tokenizer's vocabulary, and the sample says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ofa.data.task_batches import TaskBatch, TaskBatcher
from ofa.data.task_rows import TaskRows
from ofa.data.tasks import Kind, task_for
from ofa.downstream.evaluate_model import matched_classes, origin_of, task_config
from ofa.downstream.task_data import OpenTask
from ofa.export.hf import ExportError
from ofa.models.adapters import adapter_for
from ofa.models.build import load_tokenizer
from ofa.runtimes.source import Source

LOG = logging.getLogger(__name__)

BATCH = 8
"""Rows of one forward."""

MOST = 1000
DRAWN = 200
"""Rows that are enough where nobody says how many."""

LONGEST = 128
"""Tokens of the longest drawn row, but for the first."""

WHOLE = 4
"""Drawn rows that are as long as the model reaches: each costs as much as many others."""


@dataclass(frozen=True)
class Rows:
    """Which rows are wanted."""

    count: int | None = None
    """If there are so many. None: all of its task, up to `MOST`, or `DRAWN` where there are none to be read."""
    task: str | None = None
    path: str | None = None
    """Task and folder of its files; None: as the model's run or its recipe says."""
    overrides: Sequence[str] = ()
    """Further values of the task's section, `task.KEY=VALUE`."""

    @property
    def given(self) -> bool:
        """Whether the caller says of which task: then nothing else will do."""
        return self.task is not None or self.path is not None or bool(self.overrides)


@dataclass(frozen=True)
class Sample:
    """Rows and where they are from."""

    rows: TaskRows
    kind: Kind
    pad_id: int
    count: int
    """The first so many are used."""
    origin: str
    """For people: `the validation split of sst2`."""

    def in_words(self) -> str:
        """`128 rows of the validation split of sst2`"""
        return f"{self.count} rows of {self.origin}"

    def batches(self) -> Iterator[TaskBatch]:
        """In their order, each batch as wide as its longest."""
        batcher = TaskBatcher(self.rows, self.kind, self.pad_id)
        for start in range(0, self.count, BATCH):
            yield batcher.batch(np.arange(start, min(start + BATCH, self.count)))


def sample_for(source: Source, wanted: Rows) -> Sample:
    """Rows for a model.

    Raises:
        ValueError: of many kinds: the task that is given cannot be read, or the tokenizer.
    """
    tokenizer = load_tokenizer(str(source.folder))
    try:
        return _of_the_task(source, tokenizer, wanted)
    except ValueError as error:
        if wanted.given:
            raise
        LOG.warning("drawn words take the place of rows of its task, which cannot be read here: %s", error)
    return drawn(source.model.config, source.kind, tokenizer, wanted.count or DRAWN)


def _of_the_task(source: Source, tokenizer: PreTrainedTokenizerFast, wanted: Rows) -> Sample:
    name = str(source.folder)
    recorded: Mapping[str, object] = origin_of(name).task
    if wanted.task is None and "name" not in recorded:
        raise ExportError(f"{source.folder} does not say which task it was fine-tuned on; --task and --path do")
    config = task_config(name, recorded, task=wanted.task, path=wanted.path, overrides=wanted.overrides)
    if config.path is None and not wanted.given:
        raise ExportError(f"the rows of {config.name} are on the hub, which is asked only with --task {config.name}")
    row, _ = matched_classes(source.model.config, task_for(config), name)
    opened = OpenTask(config, row, tokenizer)
    split = opened.read("validation")
    count = min(wanted.count or MOST, len(split.rows))
    return Sample(split.rows, source.kind, opened.pad_id, count, f"the validation split of {row.name}")


def drawn(config: PreTrainedConfig, kind: Kind, tokenizer: PreTrainedTokenizerFast, count: int) -> Sample:
    """Rows of ordinary words between the special tokens, of every length up to LONGEST, and a few as long as the model
    reaches; every other one has a second segment, if the model knows such."""
    frame = tokenizer("")["input_ids"]
    special = set(tokenizer.all_special_ids)
    ordinary = [number for number in sorted(tokenizer.get_vocab().values()) if number not in special]
    adapter = adapter_for(config.model_type)
    reach = adapter.longest_sequence(config)
    draw = np.random.default_rng(0)
    lengths = draw.integers(len(frame) + 1, min(LONGEST, reach) + 1, count)
    lengths[:WHOLE] = reach
    half = len(frame) // 2  # opening tokens, then closing ones
    pieces = [[*frame[:half], *draw.choice(ordinary, length - len(frame)), *frame[half:]] for length in lengths]
    tokens = np.concatenate([np.array(piece, dtype=np.int32) for piece in pieces])
    has_second = adapter.takes_token_types(config) & (np.arange(count) % 2 == 1)
    seconds = np.where(has_second, draw.integers(0, lengths), lengths)
    types = [np.arange(length) >= second for length, second in zip(lengths, seconds, strict=True)]
    rows = TaskRows(tokens, np.concatenate(types).astype(np.int8), lengths, None, np.arange(count))
    pad = cast(int, tokenizer.pad_token_id)
    return Sample(rows, kind, pad, count, "words drawn from its vocabulary")
