"""Micro-batches: rows of a split become the tensors that one forward takes.

In: (epoch, row id) pairs. Out: a `MicroBatch` on the CPU, padded to the corpus's sequence length, with tokens masked,
positions reset in each segment, and segments numbered so that attention can keep them apart; and the `Totals` of any
set of rows, from the manifest's counts alone.

A flat stream with cumulative lengths (no [B, S] at all) would spare the last percent of padding; it needs an attention
that stock models do not call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ofa.config import DataConfig
from ofa.data.fit import PAIRS
from ofa.data.masking import MaskedRows, MaskingRules, distilled_counts, mask_rows, prediction_counts, sample_positions
from ofa.data.rows import PackedRows, RowReader
from ofa.data.shards import Corpus
from ofa.data.tensors import Tensors


class BatchError(ValueError):
    """Rows that contradict the manifest."""


@dataclass(frozen=True)
class Totals:
    """Counts of one global batch, over all ranks: what the means of its losses divide by."""

    predicted: int
    """Masked-LM positions."""
    distilled: int
    """Positions whose logits are distilled; `predicted` under kd_positions masked."""
    tokens: int
    """Real tokens, padding excluded."""
    pairs: int
    """Segments with a next-sentence label; 0 without pairs."""

    @property
    def counted(self) -> int:
        """What accuracy divides by."""
        return self.predicted


@dataclass
class MicroBatch(Tensors):
    """Rows of one forward on one rank: B rows, S = sequence length. All int64; flat indices run over B * S."""

    input_ids: Tensor
    """[B, S], masked, padded with the pad id."""
    position_ids: Tensor
    """[B, S], from 0 in each segment; an architecture's offset is the adapter's business. 0 at padding."""
    document_ids: Tensor
    """[B, S], number of the segment within its row, from 1; 0 is padding. Attention stays within equal numbers."""
    token_type_ids: Tensor | None
    """[B, S], 1 in sentence B; None without pairs."""
    predicted: Tensor
    """[N] flat indices, ascending."""
    labels: Tensor
    """[N] true tokens at `predicted`."""
    distilled: Tensor | None
    """[K] flat indices, ascending, a superset of `predicted`; None: the same as `predicted`."""
    pair_starts: Tensor | None
    """[M] flat indices of the segments' first tokens, [CLS]; None without pairs."""
    pair_labels: Tensor | None
    """[M], 1 for a random next sentence; None without pairs."""
    row_ids: Tensor
    """[B] numbers of the rows within their split."""

    @property
    def real(self) -> Tensor:
        """bool [B, S], False at padding."""
        return self.document_ids > 0


class Batcher:
    """Makes the micro-batches of one split and knows the totals of any of its rows."""

    def __init__(
        self, corpus: Corpus, split: str, *, data: DataConfig, seed: int, kd_positions: str, kept_records: int
    ):
        self.has_pairs = corpus.mode == PAIRS
        self._name = f"{corpus.path}, split {split}"
        self._length = corpus.sequence_length
        self._pad = corpus.special["pad"]
        self._counts = corpus.split(split).counts
        self._reader = RowReader(corpus.split(split), kept_records)
        self._seed = seed
        self._rules = MaskingRules.of(data, corpus.special, corpus.vocab_size, corpus.tokenizer_path)
        self._distil_all = kd_positions == "all"
        self._share = float(kd_positions.removeprefix("sample:")) if kd_positions.startswith("sample:") else None

    def totals(self, row_ids: np.ndarray) -> Totals:
        """Counts over `row_ids` (int64 [n]) from the manifest; equal to what their micro-batches contain."""
        tokens, maskable, segments = self._counts[row_ids].T
        predicted = prediction_counts(maskable, self._rules.probability, self._rules.limit)
        distilled = predicted
        if self._distil_all:
            distilled = tokens
        elif self._share is not None:
            distilled = distilled_counts(tokens, predicted, self._share)
        pairs = int(segments.sum()) if self.has_pairs else 0
        return Totals(int(predicted.sum()), int(distilled.sum()), int(tokens.sum()), pairs)

    def micro_batch(self, epochs: np.ndarray, row_ids: np.ndarray) -> MicroBatch:
        """The rows `row_ids` as they are masked in `epochs`; both int64 [B].

        Raises BatchError where tokens and manifest disagree, ShardError for a damaged record.
        """
        rows = self._reader.read(row_ids)
        self._check(row_ids, rows.lengths, column=0)
        tokens, positions, documents, types, starts = _lay_out(rows, self._length, self._pad)
        real = documents > 0
        masked = mask_rows(tokens, real, seed=self._seed, epochs=epochs, row_ids=row_ids, rules=self._rules)
        self._check(row_ids, masked.maskable_counts, column=1)
        return MicroBatch(
            input_ids=torch.from_numpy(masked.input_ids),
            position_ids=torch.from_numpy(positions),
            document_ids=torch.from_numpy(documents),
            token_type_ids=_tensor(types),
            predicted=torch.from_numpy(masked.predicted),
            labels=torch.from_numpy(masked.labels),
            distilled=_tensor(self._distilled(real, masked, epochs, row_ids)),
            pair_starts=_tensor(starts if self.has_pairs else None),
            pair_labels=_tensor(rows.labels),
            row_ids=torch.from_numpy(row_ids),
        )

    def _distilled(
        self, real: np.ndarray, masked: MaskedRows, epochs: np.ndarray, row_ids: np.ndarray
    ) -> np.ndarray | None:
        """Flat indices whose logits are distilled, int64 [K]; None: the predicted ones."""
        if self._distil_all:
            return np.flatnonzero(real)
        if self._share is None:
            return None
        predicted = prediction_counts(masked.maskable_counts, self._rules.probability, self._rules.limit)
        counts = distilled_counts(real.sum(axis=1), predicted, self._share)
        return sample_positions(real, masked.predicted, counts=counts, seed=self._seed, epochs=epochs, row_ids=row_ids)

    def _check(self, row_ids: np.ndarray, found: np.ndarray, *, column: int) -> None:
        """The divisors of the losses come from the manifest's counts, so a row that has others is refused."""
        expected = self._counts[row_ids, column]
        if np.array_equal(found, expected):
            return
        row = int(np.flatnonzero(found != expected)[0])
        raise BatchError(
            f"{self._name}: row {row_ids[row]} has {found[row]} {'maskable ' * column}tokens, the manifest counts "
            f"{expected[row]}; prepare the data again"
        )


def _lay_out(
    rows: PackedRows, length: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Packed rows in [B, length], int64: tokens, positions, documents, token types (None without pairs), and the flat
    index [M] at which each segment starts."""
    size = len(rows.lengths)
    shifts = np.arange(size) * length - (np.cumsum(rows.lengths) - rows.lengths)
    places = np.arange(len(rows.tokens)) + np.repeat(shifts, rows.lengths)
    segment_starts = np.cumsum(rows.segment_lengths) - rows.segment_lengths
    positions = np.arange(len(rows.tokens)) - np.repeat(segment_starts, rows.segment_lengths)
    first_segments = np.cumsum(rows.segment_counts) - rows.segment_counts
    numbers = np.arange(len(segment_starts)) - np.repeat(first_segments, rows.segment_counts) + 1
    types = None
    if rows.second is not None:
        types = _scatter(positions >= np.repeat(rows.second, rows.segment_lengths), places, size, length)
    return (
        _scatter(rows.tokens, places, size, length, pad),
        _scatter(positions, places, size, length),
        _scatter(np.repeat(numbers, rows.segment_lengths), places, size, length),
        types,
        places[segment_starts],
    )


def _scatter(values: np.ndarray, places: np.ndarray, size: int, length: int, fill: int = 0) -> np.ndarray:
    """int64 [size, length] with `values` at the flat `places` and `fill` elsewhere."""
    padded = np.full(size * length, fill, dtype=np.int64)
    padded[places] = values
    return padded.reshape(size, length)


def _tensor(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)
