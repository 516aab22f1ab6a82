"""Whole words: which vocabulary entries continue a word, and how words fill a fixed number of predictions.

In: a tokenizer folder; token ids and a random rank of each word. Out: a boolean table over the vocabulary; which
positions are predicted. Words are known from the spelling of the vocabulary entries, so shards need not carry word
boundaries. Letting the number of predictions vary with the words was not done: divisors would no longer follow from
the manifest, and shapes would change from step to step.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

BYTE_LEVEL_SPACE = "\u0120"
"""How byte-level BPE vocabularies spell the space before a word."""


class WordError(ValueError):
    """Whole-word masking is not possible with this tokenizer."""


def continuation_table(tokenizer_path: Path, vocab_size: int) -> np.ndarray:
    """bool [vocab_size]: True where the entry continues the word that the token before it belongs to.

    WordPiece: entries with the continuing prefix ("##"). Byte-level BPE: entries without a leading space, which makes
    punctuation part of the word before it. Entries added to the vocabulary, the special ones among them, begin a word.
    Raises WordError for other tokenizers.
    """
    path = Path(tokenizer_path, "tokenizer.json")
    if not path.is_file():
        raise WordError(f"data.whole_word_masking: {path} does not exist; prepare the data again, or set it to false")
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    kind = tokenizer["model"].get("type")
    if kind == "WordPiece":
        prefix = tokenizer["model"].get("continuing_subword_prefix", "##")
        continuing = [index for entry, index in tokenizer["model"]["vocab"].items() if entry.startswith(prefix)]
    elif kind == "BPE" and '"ByteLevel"' in json.dumps(tokenizer.get("pre_tokenizer")):
        vocabulary = tokenizer["model"]["vocab"].items()
        continuing = [index for entry, index in vocabulary if not entry.startswith(BYTE_LEVEL_SPACE)]
    else:
        raise WordError(
            f"data.whole_word_masking knows WordPiece and byte-level BPE, found {kind} in {path}; set it to false"
        )
    table = np.zeros(vocab_size, dtype=bool)
    table[[index for index in continuing if index < vocab_size]] = True
    table[[entry["id"] for entry in tokenizer.get("added_tokens", []) if entry["id"] < vocab_size]] = False
    return table


def word_starts(tokens: np.ndarray, maskable: np.ndarray, continues: np.ndarray) -> np.ndarray:
    """bool [B, S]: maskable positions that begin a word; the first maskable one after any other position does."""
    after_maskable = np.zeros_like(maskable)
    after_maskable[:, 1:] = maskable[:, :-1]
    return maskable & ~(continues[tokens] & after_maskable)


def choose_words(starts: np.ndarray, maskable: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Flat indices into [B, S], ascending: whole words, exactly `counts[row]` positions in each row.

    starts, maskable: bool [B, S]; ranks: uint64 [B, S], read where a word starts; counts: int64 [B], at most the
    maskable positions of the row. Words are taken in the order of their ranks; one that would overflow is skipped. If
    the row ends before the count is reached, the first word that was skipped is cut to what is missing.
    """
    flat_starts = np.flatnonzero(starts)
    members = np.flatnonzero(maskable)
    first_member = np.searchsorted(members, flat_starts)
    lengths = np.diff(first_member, append=len(members))
    rows = flat_starts // starts.shape[1]
    order = np.lexsort((ranks.ravel()[flat_starts], rows))
    row_ends = np.cumsum(np.bincount(rows, minlength=len(counts)))
    taken = np.zeros_like(lengths)
    begin = 0
    for end, count in zip(row_ends.tolist(), counts.tolist(), strict=True):
        words = order[begin:end]
        taken[words] = _fill(lengths[words].tolist(), count)
        begin = end
    offsets = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return members[np.repeat(first_member, taken) + offsets]


def _fill(lengths: list[int], count: int) -> list[int]:
    """How many tokens of each word are taken, in order, so that they sum to `count`."""
    taken = [0] * len(lengths)
    skipped = None
    for word, length in enumerate(lengths):
        if count == 0:
            return taken
        if length <= count:
            taken[word] = length
            count -= length
        elif skipped is None:
            skipped = word
    if count:
        assert skipped is not None, "a row has fewer maskable tokens than predictions"
        taken[skipped] = count
    return taken
