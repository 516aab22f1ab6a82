"""Whether a corpus serves a run: its rows are as long as the config says, they are of the right kind, and there are
enough. Imports nothing heavy, so that what does not fit is said at once."""

from __future__ import annotations

from ofa.config import DataConfig, RunConfig
from ofa.data.shards import Corpus

PAIRS = "segment_pair_nsp"
"""The corpus mode whose segments are sentence pairs with a next-sentence label."""


class CorpusError(ValueError):
    """A corpus that does not serve this run."""


def check_corpus(corpus: Corpus, data: DataConfig) -> None:
    """What decides the shape of a batch. Raises CorpusError."""
    if corpus.sequence_length != data.sequence_length:
        raise CorpusError(
            f"{corpus.path}: rows have {corpus.sequence_length} tokens, data.sequence_length is "
            f"{data.sequence_length}; set it to {corpus.sequence_length}, or prepare the data with that length"
        )
    for split in ("train", "validation"):
        tokens = corpus.split(split).counts[:, 0]
        if tokens.max(initial=0) > corpus.sequence_length:
            raise CorpusError(
                f"{corpus.path}, split {split}: row {tokens.argmax()} has {tokens.max()} tokens, more than the "
                f"manifest's sequence_length {corpus.sequence_length}; prepare the data again"
            )


def check_run(corpus: Corpus, config: RunConfig) -> None:
    """What a training run needs of its corpus. Raises CorpusError."""
    if config.model.task == "mlm_nsp" and corpus.mode != PAIRS:
        raise CorpusError(
            f"{corpus.path}: model.task mlm_nsp needs next-sentence labels, but the data has mode {corpus.mode}; "
            f"prepare it with mode {PAIRS}, or set model.task to mlm"
        )
    validation_rows(corpus, config.evaluate.rows)
    available = corpus.split("train").total_rows
    if available < config.batch.global_size:
        raise CorpusError(
            f"{corpus.path}: {available} training rows do not fill one batch of {config.batch.global_size}; prepare "
            f"more text, or set batch.global_size to at most {available}"
        )


def validation_rows(corpus: Corpus, rows: int | None) -> int:
    """How many validation rows are used; `rows` None: all. Raises CorpusError if there are not so many, or none."""
    available = corpus.split("validation").total_rows
    total = available if rows is None else rows
    if not 0 < total <= available:
        raise CorpusError(
            f"{corpus.path}: asked for {total} validation rows, the split has {available}; leave the number "
            f"out (evaluate.rows=null) for all of them, or prepare the data with a larger validation share"
        )
    return total
