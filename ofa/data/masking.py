"""Token masking (BERT section 3.1) as a pure function of (seed, epoch, row id).

In: rows of token ids, padded, with their epochs and row ids. Out: the rows with [MASK] and random tokens in place, the
predicted positions and their true tokens; on request, positions for distillation. The number of positions of a row is
fixed by its counts alone, so the divisor of a mean over a global batch is known from the manifest, and shapes stay.

Legend: B rows, S columns, N predicted positions, K distilled positions. A Bernoulli draw for each token (the published
code) was not taken: its number of predictions is known only after drawing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ofa.config import DataConfig
from ofa.data import counter
from ofa.data.words import choose_words, continuation_table, word_starts

_LAST = np.uint64(2**64 - 1)
"""Rank of a position that cannot be chosen; no real rank is expected to equal it in the life of this universe."""

_REPLACE, _TOKEN = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
"""Digits of pi: they part the bits that choose a replacement, and a random token, from those that choose positions."""


@dataclass(frozen=True)
class MaskingRules:
    """What is masked how; the same for every row of a run."""

    probability: float
    """Share of a row's maskable tokens that is predicted."""
    limit: int
    """Most predictions in a row."""
    mask_token_share: float
    random_token_share: float
    mask_id: int
    special_ids: np.ndarray
    """int64; never predicted and never drawn as a random token."""
    vocab_size: int
    continues: np.ndarray | None = None
    """bool [vocab_size], the table of `continuation_table`: choose whole words. None: single tokens."""
    ordinary_ids: np.ndarray = field(init=False)
    """int64: what a random token is drawn from, uniformly."""
    is_ordinary: np.ndarray = field(init=False)
    """bool [vocab_size]"""

    def __post_init__(self) -> None:
        is_ordinary = np.ones(self.vocab_size, dtype=bool)
        is_ordinary[self.special_ids] = False
        object.__setattr__(self, "is_ordinary", is_ordinary)
        object.__setattr__(self, "ordinary_ids", np.flatnonzero(is_ordinary))

    @classmethod
    def of(cls, data: DataConfig, special: dict[str, int], vocab_size: int, tokenizer_path: Path) -> MaskingRules:
        """The rules of a config for a corpus; reads the tokenizer only for whole words (WordError if it cannot)."""
        return cls(
            probability=data.mask_probability,
            limit=data.predictions_limit(),
            mask_token_share=data.mask_token_share,
            random_token_share=data.random_token_share,
            mask_id=special["mask"],
            special_ids=np.array(sorted(set(special.values()))),
            vocab_size=vocab_size,
            continues=continuation_table(tokenizer_path, vocab_size) if data.whole_word_masking else None,
        )


class MaskedRows(NamedTuple):
    """B rows after masking."""

    input_ids: np.ndarray
    """int64 [B, S]"""
    predicted: np.ndarray
    """int64 [N], flat indices into B * S, ascending"""
    labels: np.ndarray
    """int64 [N], the true tokens there"""
    maskable_counts: np.ndarray
    """int64 [B], tokens that could have been chosen"""


def prediction_counts(maskable: np.ndarray, probability: float, limit: int) -> np.ndarray:
    """Predictions of each row, int64: min(limit, max(1, round(probability * maskable))), and 0 where nothing is
    maskable. `maskable`: int64, any shape; halves round to even."""
    wanted = np.maximum(1, np.rint(maskable * probability).astype(np.int64))
    return np.minimum(np.minimum(limit, maskable), wanted)


def distilled_counts(tokens: np.ndarray, predicted: np.ndarray, share: float) -> np.ndarray:
    """Distilled positions of each row under `sample:share`, int64: max(predicted, round(share * tokens))."""
    return np.maximum(predicted, np.rint(tokens * share).astype(np.int64))


def mask_rows(
    tokens: np.ndarray, real: np.ndarray, *, seed: int, epochs: np.ndarray, row_ids: np.ndarray, rules: MaskingRules
) -> MaskedRows:
    """Mask rows; each depends on its own tokens and on (seed, epoch, row id), never on its neighbours.

    tokens: int64 [B, S]; real: bool [B, S], False for padding; epochs, row_ids: int64 [B]. A chosen token becomes
    [MASK] with probability `mask_token_share`, a random ordinary token with `random_token_share`, else it stays.
    """
    maskable = real & rules.is_ordinary[tokens]
    maskable_counts = maskable.sum(axis=1)
    counts = prediction_counts(maskable_counts, rules.probability, rules.limit)
    ranks = _ranks(seed, "mask", epochs, row_ids, tokens.shape[1])
    if rules.continues is None:
        predicted = _lowest(np.where(maskable, ranks, _LAST), counts)
    else:
        predicted = choose_words(word_starts(tokens, maskable, rules.continues), maskable, ranks, counts)
    labels = tokens.ravel()[predicted]
    return MaskedRows(_replace(tokens, predicted, ranks, rules), predicted, labels, maskable_counts)


def sample_positions(
    real: np.ndarray,
    predicted: np.ndarray,
    *,
    counts: np.ndarray,
    seed: int,
    epochs: np.ndarray,
    row_ids: np.ndarray,
) -> np.ndarray:
    """int64 [K], ascending: `counts[row]` real positions of each row, all predicted ones among them, the rest uniform.

    real: bool [B, S]; predicted: int64 [N], flat; counts: int64 [B], at least the row's predictions.
    """
    ranks = np.where(real, _ranks(seed, "distil", epochs, row_ids, real.shape[1]), _LAST)
    ranks.ravel()[predicted] = 0
    return _lowest(ranks, counts)


def _ranks(seed: int, purpose: str, epochs: np.ndarray, row_ids: np.ndarray, columns: int) -> np.ndarray:
    """uint64 [B, columns] of random bits, all different within a row."""
    row_keys = counter.bits(counter.bits(counter.key(seed, purpose), epochs), row_ids)
    return counter.bits(row_keys[:, None], np.arange(columns))


def _lowest(ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Flat indices, ascending, of the `counts[row]` lowest ranks of each row of [B, S]."""
    thresholds = np.sort(ranks, axis=1)[np.arange(len(counts)), np.maximum(counts, 1) - 1]
    return np.flatnonzero((ranks <= thresholds[:, None]) & (counts > 0)[:, None])


def _replace(tokens: np.ndarray, predicted: np.ndarray, ranks: np.ndarray, rules: MaskingRules) -> np.ndarray:
    """A copy of `tokens` with the predicted positions replaced by the rule of 80/10/10."""
    own_bits = ranks.ravel()[predicted]
    drawn = counter.fractions(counter.mix(own_bits ^ _REPLACE))
    random_tokens = rules.ordinary_ids[counter.below(counter.mix(own_bits ^ _TOKEN), len(rules.ordinary_ids))]
    kept_or_random = np.where(
        drawn < rules.mask_token_share + rules.random_token_share, random_tokens, tokens.ravel()[predicted]
    )
    replaced = tokens.copy()
    replaced.ravel()[predicted] = np.where(drawn < rules.mask_token_share, rules.mask_id, kept_or_random)
    return replaced
