"""From a corpus to the batches of a rank, at any step.

In: an opened corpus, a run's config, rank and world size. Out: for each step the totals of the global batch and this
rank's micro-batches; for validation the same rows with the same masks every time. The loader holds no position: what a
step reads follows from the step alone, so resuming is starting at another number.

webdataset's shuffles and splitters were not taken: their order depends on workers and world size, and finding a place
in it means reading up to it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

from ofa.config import DataConfig, RunConfig
from ofa.data.ahead import prepare_ahead, step_batches
from ofa.data.batches import Batcher, MicroBatch, Totals
from ofa.data.fit import check_corpus, check_run, validation_rows
from ofa.data.plan import Plan, accumulation, rank_positions
from ofa.data.shards import Corpus, Split

VALIDATION_SEED = 0
"""Validation masks do not follow the run's seed: runs are compared on the same predicted tokens."""


Step = tuple[Totals, list[MicroBatch]]


class Validation(NamedTuple):
    """A pass over the first rows of the validation split."""

    totals: Totals
    """Of all rows, on every rank."""
    batches: Iterator[MicroBatch]
    """This rank's share; the last may be shorter. Every rank has the same number of them, because under ZeRO 3 a
    forward is a collective call."""
    counted: int
    """The first so many batches are this rank's; what follows repeats rows and is not to be counted."""


class Loader:
    """The training batches of one rank.

    With a CUDA `device`, batches arrive on it, copied one step ahead. Raises CorpusError where corpus and config
    disagree, PlanError where the batch sizes do not divide.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: RunConfig,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ):
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        check_corpus(corpus, config.data)
        check_run(corpus, config)
        self.accumulation = accumulation(config.batch, world_size)
        self._corpus, self._config = corpus, config
        self._rank, self._world_size = rank, world_size
        self._device = torch.device(device)
        self._plan = Plan(corpus.split("train"), config.seed, config.data.shuffle_window)
        self._batcher = Batcher(
            corpus,
            "train",
            data=config.data,
            seed=config.seed,
            kd_positions=config.objective.kd_positions,
            kept_records=_kept_records(corpus.split("train"), config),
        )

    def totals(self, step: int) -> Totals:
        """Totals of the global batch of `step`; reads nothing."""
        return self._batcher.totals(self._plan.rows(self._positions(step))[1])

    def global_batch(self, step: int) -> Step:
        """(Totals of the global batch, this rank's micro-batches on the CPU), a pure function of `step`."""
        mine = rank_positions(step, batch=self._config.batch, rank=self._rank, world_size=self._world_size)
        positions = self._positions(step)
        epochs, row_ids = self._plan.rows(positions)
        inside = mine - positions[0]
        return self._batcher.totals(row_ids), [self._batcher.micro_batch(epochs[m], row_ids[m]) for m in inside]

    def batches(self, start_step: int = 0, end_step: int | None = None) -> Generator[Step]:
        """`global_batch` of start_step, start_step + 1, ... (up to end_step, exclusive), prepared ahead by
        `data.workers` threads and on the loader's device. Close the iterator to stop the threads."""
        steps = count(start_step) if end_step is None else range(start_step, end_step)
        return step_batches(self.global_batch, steps, self._config.data.workers, self._device)

    def validation(self, rows: int | None = None, micro_size: int | None = None) -> Validation:
        """The first `rows` validation rows (None: all), `micro_size` at a time (None: batch.micro_size)."""
        return validation_batches(
            self._corpus,
            self._config.data,
            rows=rows,
            micro_size=micro_size or self._config.batch.micro_size,
            rank=self._rank,
            world_size=self._world_size,
            device=self._device,
        )

    def _positions(self, step: int) -> np.ndarray:
        size = self._config.batch.global_size
        return np.arange(step * size, (step + 1) * size)


def validation_batches(
    corpus: Corpus,
    data: DataConfig,
    *,
    micro_size: int,
    rows: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Validation:
    """The first `rows` rows of the validation split (None: all), in order, masked as always.

    Micro-batch j belongs to rank j mod world_size; the last is shorter if the rows do not divide, so that every row is
    counted once. A rank that has one less than others gets the first again, uncounted. Raises CorpusError if the split
    has fewer rows.
    """
    check_corpus(corpus, data)
    total = validation_rows(corpus, rows)
    batcher = Batcher(corpus, "validation", data=data, seed=VALIDATION_SEED, kd_positions="masked", kept_records=2)
    own = range(rank * micro_size, total, world_size * micro_size)
    of_rank_zero = len(range(0, total, world_size * micro_size))
    starts = [*own, *[0] * (of_rank_zero - len(own))]

    def make(start: int) -> MicroBatch:
        row_ids = np.arange(start, min(start + micro_size, total))
        return batcher.micro_batch(np.zeros_like(row_ids), row_ids)

    batches = prepare_ahead(make, starts, data.workers)
    return Validation(batcher.totals(np.arange(total)), (batch.to(device) for batch in batches), len(own))


def _kept_records(split: Split, config: RunConfig) -> int:
    """Decoded records to keep so that each is read once an epoch: those of a window, of what threads prepare beyond it
    and of what a slow thread still prepares before it."""
    window, workers = config.data.shuffle_window, config.data.workers
    rows_of_window = window * split.total_rows / len(split.records)
    return window * (2 + math.ceil(2 * workers * config.batch.global_size / rows_of_window))
