"""Sentences in, token ids out; what repeats in a text is given to the tokenizer about once.

A tokenizer of the BERT family cuts text at spaces and around punctuation, and nothing in it looks across such a cut: a
sentence's ids are those of its words, end to end, and a word's those of its parts. Words repeat, and a dictionary
answers several times faster than the tokenizer, most of whose time goes into normalising. Other tokenizers (byte-level
BPE, whose tokens carry the space before them) get whole sentences.

Giving the tokenizer one new part at a time was tried: a call costs as much as five of them. They go in groups, as text
that is already split.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

_KNOWN_WORDS = 200_000
"""Words to remember, at some 200 bytes each. Beyond, all are forgotten; the frequent ones are back soon."""

_PARTS = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~]+")
"""Single ASCII punctuation characters, and what is between them: new words are old parts in new company, mostly."""

_GROUP = 100
"""New parts in one call; no faster above."""


class TokenIds:
    """A tokenizer as a function from sentences to ids, without special tokens.

    Args:
        tokenizer: see `data_prep.tokenizer.encoder`.
        dtype: of the ids, see `ofa.data.shards.token_dtype`.
        known_words: how many words to remember; what is remembered changes no id.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype, *, known_words: int = _KNOWN_WORDS):
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._limit = known_words
        self._known: dict[str, bytes] = {}  # bytes of an array: a third of a list's memory, and joined without a loop
        self._by_word = cuts_at_spaces(tokenizer)

    def of(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all sentences end to end, and the offset [len(sentences)] at which each sentence ends, int64."""
        if self._by_word:
            return self._of_words([sentence.split(" ") for sentence in sentences])
        ids = [one.ids for one in self._tokenizer.encode_batch_fast(sentences, add_special_tokens=False)]
        ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))
        return np.fromiter(itertools.chain.from_iterable(ids), self._dtype), ends

    def _of_words(self, sentences: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        words = list(itertools.chain.from_iterable(sentences))
        if len(self._known) > self._limit:
            self._known.clear()
        self._learn([word for word in dict.fromkeys(words) if word not in self._known])
        pieces = list(map(self._known.__getitem__, words))
        after_word = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces))) // self._dtype.itemsize
        words_before = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)))
        return np.frombuffer(b"".join(pieces), self._dtype), after_word[words_before - 1]

    def _learn(self, words: list[str]) -> None:
        parts = {word: _PARTS.findall(word) for word in words}
        every = itertools.chain.from_iterable(parts.values())
        self._ask([part for part in dict.fromkeys(every) if part not in self._known])
        for word, own in parts.items():
            self._known[word] = b"".join(map(self._known.__getitem__, own))

    def _ask(self, parts: list[str]) -> None:
        groups = [parts[start : start + _GROUP] for start in range(0, len(parts), _GROUP)]
        found = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        for group, encoding in zip(groups, found, strict=True):
            bounds = np.searchsorted(np.array(encoding.word_ids, np.int64), np.arange(len(group) + 1))
            data = np.array(encoding.ids, self._dtype).tobytes()
            offsets = (bounds * self._dtype.itemsize).tolist()
            self._known.update(zip(group, (data[a:b] for a, b in itertools.pairwise(offsets)), strict=True))


def cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of what stands between spaces and punctuation, for any text.

    So it is with BERT's three steps, unless a token has been added that may hold a space or take in the one beside it.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.model, models.WordPiece)
        and tokenizer.encode_special_tokens
        and all(token.special for token in added)
    )
