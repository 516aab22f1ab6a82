"""Whole words: which entries continue a word, and how words fill a count."""

import json

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models

from ofa.data.words import choose_words, continuation_table, word_starts


def save(tmp_path, model, added=(), pre_tokenizer=None):
    content = {"model": model, "pre_tokenizer": pre_tokenizer, "added_tokens": list(added)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))


def test_wordpiece_entries_with_the_prefix_continue_a_word(tmp_path):
    vocabulary = {"[PAD]": 0, "play": 1, "##ing": 2, "##ed": 3, "the": 4}
    Tokenizer(models.WordPiece(vocabulary, unk_token="[PAD]")).save(str(tmp_path / "tokenizer.json"))
    assert continuation_table(tmp_path, 6).tolist() == [False, False, True, True, False, False]


def test_byte_level_entries_without_a_leading_space_continue_a_word(tmp_path):
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["playing the game", "the games played"] * 9, 300, 2, special_tokens=["<s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = continuation_table(tmp_path, 300)
    pieces = tokenizer.encode(" the games").ids
    words = np.cumsum(~table[pieces])
    assert words[-1] == 2 and not table[pieces[0]]
    assert not table[tokenizer.token_to_id("<s>")]


def test_other_tokenizers_are_refused(tmp_path):
    save(tmp_path, {"type": "Unigram", "vocab": [["a", 0.0]]})
    with pytest.raises(ValueError, match="found Unigram"):
        continuation_table(tmp_path, 5)


def test_a_word_begins_after_a_special_token_whatever_its_spelling():
    continues = np.array([False, False, True])
    tokens = np.array([[0, 2, 2, 1, 2, 0, 2]])
    starts = word_starts(tokens, tokens > 0, continues)
    assert np.flatnonzero(starts).tolist() == [1, 3, 6]


def choose(lengths, count):
    """Words of these lengths, wanted in this order."""
    starts = np.zeros((1, sum(lengths)), dtype=bool)
    starts[0, np.cumsum([0, *lengths[:-1]])] = True
    ranks = np.arange(sum(lengths), dtype=np.uint64)[None]
    return choose_words(starts, np.ones_like(starts), ranks, np.array([count])).tolist()


def test_a_word_that_would_overflow_is_skipped():
    assert choose([2, 3, 1, 1], 4) == [0, 1, 5, 6]


def test_the_first_skipped_word_is_cut_where_nothing_fits():
    assert choose([2, 3, 4], 4) == [0, 1, 2, 3]


def test_words_are_taken_in_the_order_of_their_ranks():
    starts = np.array([[True, False, True, True]])
    ranks = np.array([[9, 0, 5, 1]], dtype=np.uint64)
    assert choose_words(starts, np.ones_like(starts), ranks, np.array([2])).tolist() == [2, 3]
