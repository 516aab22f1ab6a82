"""Ids of sentences, word by word and whole: the tokenizer alone is the reference."""

import itertools

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.token_ids import TokenIds, cuts_at_spaces
from data_prep.tokenizer import build, encoder
from ofa.config import TokenizerConfig

TEXTS = [
    "The cat's na\u00efve caf\u00e9-goers sat on 3.5 \u4f60\u597d mats, didn't they? [MASK]",
    "\u0391\u03a3 stra\u00dfe",
]

PLAIN, SPACES, SPECIAL = "abAB .,-'", "\u00a0\u2003\u200b\x00\x1c\ufffd", "[MASK]"
ACCENTED = "\u00e9e\u0301\u0300\u0327\u2019\u4f60\u00df\u03a3\u0130\ufb01\u212b"
COUNTS = st.integers(0, 20)
TRICKY = st.one_of(st.text(max_size=30), st.text(alphabet=PLAIN + SPACES + SPECIAL + ACCENTED, max_size=30))
"""Accents that combine, characters that lower-casing multiplies, white space of every kind, special tokens as text."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained WordPiece tokenizer."""
    path = tmp_path_factory.mktemp("tokenizer") / "trained"
    build(path, TokenizerConfig(vocab_size=120), 64, lambda: TEXTS)
    return path


def alone(tokenizer, sentences):
    """What the tokenizer itself gives, sentence by sentence."""
    return [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]


def parted(found):
    """The two arrays of `TokenIds.of` as one list a sentence."""
    tokens, ends = found
    return [tokens[start:stop].tolist() for start, stop in itertools.pairwise([0, *ends.tolist()])]


@settings(max_examples=300, deadline=None)
@given(st.lists(TRICKY, max_size=8), st.tuples(*[st.booleans()] * 3), st.sampled_from([None, False, True]), COUNTS)
def test_words_give_the_ids_of_their_sentences(folder, sentences, normalized, strip_accents, known_words):
    tokenizer = encoder(folder)
    clean, chinese, lowercase = normalized
    tokenizer.normalizer = normalizers.BertNormalizer(clean, chinese, strip_accents, lowercase)
    token_ids = TokenIds(tokenizer, np.dtype(np.uint16), known_words=known_words)
    assert cuts_at_spaces(tokenizer)
    for _ in range(2):  # learnt, then known
        assert parted(token_ids.of(sentences)) == alone(tokenizer, sentences)


class Noting:
    """A tokenizer that notes what it is asked for."""

    def __init__(self, tokenizer):
        self._tokenizer, self.asked = tokenizer, []

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def encode_batch(self, groups, **settings):
        self.asked += itertools.chain.from_iterable(groups)
        return self._tokenizer.encode_batch(groups, **settings)


def test_a_word_is_asked_for_once_whatever_stands_around_it(folder):
    tokenizer = Noting(encoder(folder))
    token_ids = TokenIds(tokenizer, np.dtype(np.uint16))
    for _ in range(3):
        token_ids.of(["the cat sat.", "the (mat)", "sat, the cat."])
    assert sorted(tokenizer.asked) == ["(", ")", ",", ".", "cat", "mat", "sat", "the"]


def test_the_words_that_are_remembered_are_limited(folder):
    token_ids = TokenIds(encoder(folder), np.dtype(np.uint16), known_words=50)
    for start in range(0, 2000, 20):
        token_ids.of([" ".join(f"w{number}" for number in range(start, start + 20))])
        assert len(token_ids._known) <= 70  # the limit and one call's words


def test_a_tokenizer_whose_tokens_carry_spaces_gets_whole_sentences():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.encode_special_tokens = True
    sentences = ["The cat  sat on", "", "cat the"]
    assert not cuts_at_spaces(tokenizer)
    assert parted(TokenIds(tokenizer, np.dtype(np.uint32)).of(sentences)) == alone(tokenizer, sentences)
    assert alone(tokenizer, ["The cat"])[0] != [id for word in alone(tokenizer, ["The", "cat"]) for id in word]


def test_an_added_token_with_a_space_keeps_sentences_whole(folder):
    tokenizer = encoder(folder)
    tokenizer.add_tokens(["cat sat"])
    assert not cuts_at_spaces(tokenizer)
    assert parted(TokenIds(tokenizer, np.dtype(np.uint16)).of(["the cat sat"])) == alone(tokenizer, ["the cat sat"])
