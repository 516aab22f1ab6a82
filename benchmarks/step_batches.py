"""Batches of the step benchmark: the same masked text as padded rows, as full rows, and as packed rows.

In: rows of segments, from a prepared folder or drawn. Out: `Batches`, in which every segment stands once in each form,
masked by the collator of transformers, so that the forms differ in their layout alone:

    padded   one segment a row, padded to the longest of the batch: how the published code and transformers train
    full     segments end to end, seen as one text: what a baseline without padding would do
    packed   segments end to end, each seeing itself only: ours

A batch of either form holds the same number of real tokens to within a few per cent; rates count real tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data_prep.pack import pack
from ofa.data.batches import MicroBatch, Totals
from ofa.data.shards import Corpus, read_record
from ofa.timing import timed

Layout = Literal["padded", "full", "packed"]
IGNORED = -100
"""Label of a position without a prediction, as transformers marks it."""

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


@dataclass(frozen=True)
class Text:
    """Rows of segments of token ids, and the tokenizer that a collator asks for special tokens."""

    rows: list[list[list[int]]]
    tokenizer: PreTrainedTokenizerBase
    length: int
    """Tokens of a row."""
    source: str
    """Where the text is from, in words."""

    @property
    def fill(self) -> float:
        """Share of real tokens if each segment were a row of its own, padded to `length`."""
        segments = [len(segment) for row in self.rows for segment in row]
        return sum(segments) / (len(segments) * self.length)


@dataclass(frozen=True)
class StepBatch:
    """One batch in one layout; our modules take `micro` and `totals`, stock ones what is derived from them."""

    layout: Layout
    micro: MicroBatch
    """Distilled positions are all real ones."""
    totals: Totals
    labels: Tensor
    """[B, S], IGNORED where nothing is predicted."""

    def to(self, device: str) -> StepBatch:
        """The batch on a device."""
        return replace(self, micro=self.micro.to(device), labels=self.labels.to(device))

    @property
    def real(self) -> Tensor:
        """[B, S] boolean: not padding."""
        return self.micro.document_ids > 0


@dataclass(frozen=True)
class Batches:
    """As many batches in each layout, together the same text."""

    by_layout: dict[Layout, list[StepBatch]]
    check: dict[Layout, StepBatch]
    """The segments of one packed batch, padded, full and packed: equal losses belong to equal objectives here."""
    collator_tokens_per_second: float

    def typical(self, layout: Layout) -> StepBatch:
        """The batch of a layout with the middle number of real tokens."""
        some = sorted(self.by_layout[layout], key=lambda batch: batch.totals.tokens)
        return some[len(some) // 2]

    def to(self, device: str) -> Batches:
        """All of them on a device."""
        moved = {layout: [batch.to(device) for batch in batches] for layout, batches in self.by_layout.items()}
        check = {layout: batch.to(device) for layout, batch in self.check.items()}
        return replace(self, by_layout=moved, check=check)


# ---- text -------------------------------------------------------------------------------------------------------


def prepared_text(folder: Path, rows: int, seed: int = 0) -> Text:
    """`rows` packed rows of a prepared folder's training split, in an order drawn from the seed.

    Raises:
        ValueError: fewer rows than that; a ShardError if the folder is damaged.
    """
    corpus = Corpus.open(folder)
    found: list[list[list[int]]] = []
    for record in corpus.split("train").records:
        if len(found) >= 8 * rows:  # enough to draw from; a corpus of gigabytes need not be read
            break
        decoded = read_record(record)
        bounds = decoded.segments.astype(np.int64)
        inside = np.searchsorted(bounds, decoded.rows)
        pieces = [decoded.tokens[a:b].tolist() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        found += [pieces[a:b] for a, b in zip(inside[:-1], inside[1:], strict=True)]
    if len(found) < rows:
        raise ValueError(f"{folder} has {len(found)} training rows, the benchmark wants {rows}: prepare more text")
    order = np.random.default_rng(seed).permutation(len(found))[:rows]
    tokenizer = AutoTokenizer.from_pretrained(str(corpus.tokenizer_path))
    return Text([found[i] for i in order], tokenizer, corpus.sequence_length, f"{folder.name}, prepared")


def synthetic_text(rows: int, length: int, vocab: int, seed: int = 0) -> Text:
    """Random words in segments whose lengths are log-normal (median 0.45 of a row, sigma 1, cut at the row's end).

    Padded to a row each they are about half full, as Wikipedia's articles are at 512 tokens (MLPerf's packing of that
    corpus: 1.999 articles a row). Words follow Zipf's law.
    """
    draw = np.random.default_rng(seed)
    lengths = np.clip(np.rint(draw.lognormal(np.log(0.45 * length), 1.0, size=4 * rows)), 8, length).astype(int)
    packed = pack(lengths.tolist(), length)
    order = draw.permutation(len(packed))[:rows]
    assert len(order) == rows, "four segments a row are more than fit"
    frequencies = 1.0 / np.arange(1, vocab - len(SPECIAL) + 1)
    words = np.cumsum(frequencies / frequencies.sum())

    def segment(size: int) -> list[int]:
        ids = np.searchsorted(words, draw.random(size - 2)) + len(SPECIAL)
        return [SPECIAL["[CLS]"], *np.minimum(ids, vocab - 1).tolist(), SPECIAL["[SEP]"]]

    texts = [[segment(int(lengths[i])) for i in packed[row]] for row in order]
    return Text(texts, _word_tokenizer(vocab), length, "random words, log-normal lengths")


def _word_tokenizer(vocab: int) -> PreTrainedTokenizerBase:
    """A tokenizer of `vocab` words that stand for nothing."""
    entries = SPECIAL | {f"w{i}": i for i in range(len(SPECIAL), vocab)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(entries, unk_token="[UNK]"))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)


# ---- batches ----------------------------------------------------------------------------------------------------


def make_batches(text: Text, number: int, *, seed: int = 0, probability: float = 0.15) -> Batches:
    """`number` batches in each layout; the rows of the text are divided evenly among them.

    Args:
        text: its rows must divide by `number`.
        seed: of the masks and of the order of padded rows.
        probability: of a token to be predicted.
    """
    assert len(text.rows) % number == 0, f"{len(text.rows)} rows do not divide into {number} batches"
    torch.manual_seed(seed)
    segments = [segment for row in text.rows for segment in row]
    masked, seconds = _collated(text.tokenizer, segments, probability)
    numbered = iter(masked)
    rows = [[next(numbered) for _ in row] for row in text.rows]
    size = len(rows) // number
    packed = [rows[start : start + size] for start in range(0, len(rows), size)]
    shuffled = [masked[i] for i in np.random.default_rng(seed).permutation(len(masked))]
    size = len(shuffled) // number
    alone = [[[one] for one in shuffled[start : start + size]] for start in range(0, size * number, size)]
    by_layout: dict[Layout, list[StepBatch]] = {
        "padded": [_batch("padded", group, text) for group in alone],
        "full": [_batch("full", group, text) for group in packed],
        "packed": [_batch("packed", group, text) for group in packed],
    }
    apart = [[one] for row in packed[0] for one in row]
    check: dict[Layout, StepBatch] = {"padded": _batch("padded", apart, text), "packed": by_layout["packed"][0]}
    return Batches(by_layout, check, sum(map(len, segments)) / seconds)


Masked = tuple[list[int], list[int]]
"""Token ids of a segment after masking, and their labels."""


def _collated(
    tokenizer: PreTrainedTokenizerBase, segments: Sequence[list[int]], probability: float
) -> tuple[list[Masked], float]:
    """Segments masked by transformers' collator, 32 at a time, and the seconds that it took."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
    special = set(tokenizer.all_special_ids)
    examples = [{"input_ids": one, "special_tokens_mask": [int(t in special) for t in one]} for one in segments]
    masked: list[Masked] = []
    seconds = 0.0
    for start in range(0, len(examples), 32):
        some = examples[start : start + 32]
        collated: list[dict[str, Tensor]] = []
        seconds += timed(lambda some=some, collated=collated: collated.append(collator(some)))
        for number, example in enumerate(some):
            size = len(example["input_ids"])
            ids, labels = (collated[0][key][number, :size].tolist() for key in ("input_ids", "labels"))
            masked.append((ids, labels))
    return masked, seconds


def _batch(layout: Layout, rows: list[list[Masked]], text: Text) -> StepBatch:
    """Rows of masked segments as tensors; padded rows end at the longest, others at the text's length."""
    length = max(sum(len(ids) for ids, _ in row) for row in rows) if layout == "padded" else text.length
    shape = (len(rows), length)
    ids = np.full(shape, text.tokenizer.pad_token_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    positions, documents = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        begin = 0
        for document, (tokens, predicted) in enumerate(row, start=1):
            place = (number, slice(begin, begin + len(tokens)))
            ids[place], labels[place] = tokens, predicted
            positions[place] = np.arange(len(tokens)) + (begin if layout == "full" else 0)
            documents[place] = 1 if layout == "full" else document
            begin += len(tokens)
    real, predicted = np.flatnonzero(documents), np.flatnonzero(labels != IGNORED)
    micro = MicroBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        document_ids=torch.from_numpy(documents),
        token_type_ids=None,
        predicted=torch.from_numpy(predicted),
        labels=torch.from_numpy(labels.ravel()[predicted]),
        distilled=torch.from_numpy(real),
        pair_starts=None,
        pair_labels=None,
        row_ids=torch.arange(len(rows)),
    )
    return StepBatch(layout, micro, Totals(len(predicted), len(real), len(real), 0), torch.from_numpy(labels))
