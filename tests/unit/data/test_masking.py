"""Token masking: how many, which, replaced by what; a pure function of (seed, epoch, row id)."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.config import DataConfig
from ofa.data.masking import MaskingRules, distilled_counts, mask_rows, prediction_counts, sample_positions

PAD, CLS, SEP, MASK = 0, 1, 2, 3
VOCAB = 100
RULES = MaskingRules(0.15, 77, 0.8, 0.1, mask_id=MASK, special_ids=np.array([PAD, CLS, SEP, MASK]), vocab_size=VOCAB)


def rows(number, length=128, seed=0, padding=8):
    """Random rows `[CLS] ... [SEP] <padding>` and where they are real."""
    tokens = np.random.default_rng(seed).integers(4, VOCAB, (number, length))
    tokens[:, 0], tokens[:, length - padding - 1], tokens[:, length - padding :] = CLS, SEP, PAD
    real = np.zeros(tokens.shape, dtype=bool)
    real[:, : length - padding] = True
    return tokens, real


def masked(tokens, real, rules=RULES, seed=5, epoch=0, first_row=0):
    count = len(tokens)
    row_ids = np.arange(first_row, first_row + count)
    return mask_rows(tokens, real, seed=seed, epochs=np.full(count, epoch), row_ids=row_ids, rules=rules)


def test_fifteen_percent_of_the_maskable_tokens_are_predicted():
    """OFA-27: the share is 15 % to within rounding, and each position is as likely as any other."""
    tokens, real = rows(4000)
    result = masked(tokens, real)
    maskable = 118
    assert len(result.predicted) == 4000 * round(0.15 * maskable)
    hits = np.bincount(result.predicted % 128, minlength=128)
    chosen = hits[1 : maskable + 1]
    share = round(0.15 * maskable) / maskable
    assert chosen.sum() == hits.sum()
    assert abs(chosen - 4000 * share).max() < 5 * np.sqrt(4000 * share * (1 - share))


def test_predicted_tokens_become_mask_random_or_stay_in_80_10_10():
    """OFA-27: within five standard deviations; a random draw may hit the token itself."""
    tokens, real = rows(4000)
    result = masked(tokens, real)
    now = result.input_ids.ravel()[result.predicted]
    number = len(now)
    same_by_chance = 0.1 / (VOCAB - 4)
    for found, expected in (((now == MASK).mean(), 0.8), ((now == result.labels).mean(), 0.1 + same_by_chance)):
        assert abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / number)


def test_random_tokens_are_uniform_over_the_ordinary_vocabulary():
    tokens, real = rows(2000)
    result = masked(tokens, real, replace(RULES, mask_token_share=0.0, random_token_share=1.0))
    drawn = np.bincount(result.input_ids.ravel()[result.predicted], minlength=VOCAB)
    expected = len(result.predicted) / (VOCAB - 4)
    assert drawn[:4].sum() == 0
    assert abs(drawn[4:] - expected).max() < 5 * np.sqrt(expected)


def test_a_share_of_one_masks_every_prediction_and_of_zero_none():
    tokens, real = rows(50)
    all_masked = masked(tokens, real, replace(RULES, mask_token_share=1.0, random_token_share=0.0))
    untouched = masked(tokens, real, replace(RULES, mask_token_share=0.0, random_token_share=0.0))
    assert (all_masked.input_ids.ravel()[all_masked.predicted] == MASK).all()
    assert np.array_equal(untouched.input_ids, tokens) and len(untouched.predicted)


def test_labels_restore_the_row_and_nothing_else_changes():
    """OFA-27: only predicted positions change, and the labels are what stood there."""
    tokens, real = rows(100)
    before = tokens.copy()
    result = masked(tokens, real)
    restored = result.input_ids.copy()
    restored.ravel()[result.predicted] = result.labels
    assert np.array_equal(restored, before) and np.array_equal(tokens, before)
    assert not np.array_equal(result.input_ids, before)


def test_special_tokens_and_padding_are_never_predicted():
    tokens, real = rows(200)
    tokens[:, 40], tokens[:, 41] = SEP, CLS
    result = masked(tokens, real, replace(RULES, probability=0.9, limit=200))
    assert not np.isin(result.labels, [PAD, CLS, SEP, MASK]).any()
    assert real.ravel()[result.predicted].all()


def test_masking_is_a_pure_function_of_seed_epoch_and_row():
    """OFA-27: neighbours and batch order do not matter; seed, epoch and row id do."""
    tokens, real = rows(12)
    together = masked(tokens, real)
    alone = [masked(tokens[i : i + 1], real[i : i + 1], first_row=i).input_ids for i in reversed(range(12))]
    assert np.array_equal(together.input_ids, np.concatenate(alone[::-1]))
    for other in ({"seed": 6}, {"epoch": 1}, {"first_row": 100}):
        assert not np.array_equal(masked(tokens, real, **other).predicted, together.predicted)


def test_masks_of_two_epochs_overlap_no_more_than_by_chance():
    tokens, real = rows(2000)
    first, second = (set(masked(tokens, real, epoch=epoch).predicted.tolist()) for epoch in (0, 1))
    share = 18 / 118
    assert abs(len(first & second) / len(first) - share) < 5 * np.sqrt(share * (1 - share) / len(first))


def test_the_choice_of_this_version_is_kept():
    """A resumed run of a later version must see the same masks; a change here breaks every checkpoint."""
    tokens, real = rows(1, length=40)
    result = masked(tokens, real)
    assert result.predicted.tolist() == [2, 12, 17, 21]
    assert result.input_ids.ravel()[result.predicted].tolist() == [3, 3, 3, 3]


@given(st.lists(st.integers(0, 600), min_size=1, max_size=20), st.floats(0.01, 0.99), st.integers(1, 100))
def test_prediction_counts_follow_the_formula(maskable, probability, limit):
    found = prediction_counts(np.array(maskable), probability, limit)
    expected = [min(limit, max(1, round(probability * one))) if one else 0 for one in maskable]
    assert found.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    probability=st.floats(0.05, 0.95),
    limit=st.integers(1, 50),
    whole_words=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_row_gets_exactly_its_count(lengths, probability, limit, whole_words, seed):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, VOCAB, (len(lengths), 40))
    real = np.arange(40) < np.array(lengths)[:, None]
    continues = draw.random(VOCAB) < 0.5 if whole_words else None
    result = masked(tokens, real, replace(RULES, probability=probability, limit=limit, continues=continues), seed=seed)
    maskable = (real & (tokens > 3)).sum(axis=1)
    assert np.array_equal(result.maskable_counts, maskable)
    found = np.bincount(result.predicted // 40, minlength=len(lengths))
    assert np.array_equal(found, prediction_counts(maskable, probability, limit))
    assert (np.diff(result.predicted) > 0).all()


def test_whole_words_are_predicted_together():
    tokens, real = rows(500)
    tokens[:, 3:100] = np.where(tokens[:, 3:100] == 4, 5, tokens[:, 3:100])
    continues = np.zeros(VOCAB, dtype=bool)
    continues[50:] = True
    result = masked(tokens, real, replace(RULES, continues=continues))
    chosen = np.zeros(tokens.size, dtype=bool)
    chosen[result.predicted] = True
    follows = continues[tokens] & np.roll(real & (tokens > 3), 1, axis=1)
    parted = (chosen.reshape(tokens.shape) != np.roll(chosen.reshape(tokens.shape), 1, axis=1)) & follows
    assert parted.any(axis=1).mean() < 0.01, "words are cut only where nothing fits"
    assert len(result.predicted) == 500 * 18


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.0))
def test_sampled_positions_hold_the_predicted_ones_and_exactly_the_count(seed, share):
    tokens, real = rows(5, length=40, seed=seed, padding=seed % 9)
    result = masked(tokens, real, seed=seed)
    predicted = np.bincount(result.predicted // 40, minlength=5)
    counts = distilled_counts(real.sum(axis=1), predicted, share)
    ids = {"epochs": np.zeros(5, int), "row_ids": np.arange(5)}
    sampled = sample_positions(real, result.predicted, counts=counts, seed=seed, **ids)
    assert counts.tolist() == np.maximum(predicted, np.rint(share * real.sum(axis=1))).tolist()
    assert np.array_equal(np.bincount(sampled // 40, minlength=5), counts)
    assert np.isin(result.predicted, sampled).all() and real.ravel()[sampled].all()
    assert (np.diff(sampled) > 0).all()


def test_sampled_positions_other_than_the_predicted_are_uniform():
    tokens, real = rows(4000)
    result = masked(tokens, real)
    ids = {"epochs": np.zeros(4000, int), "row_ids": np.arange(4000)}
    sampled = sample_positions(real, result.predicted, counts=np.full(4000, 60), seed=5, **ids)
    hits = np.bincount(np.setdiff1d(sampled, result.predicted) % 128, minlength=128)
    special, ordinary = hits[[0, 119]], hits[1:119]
    share = 42 / 102
    assert abs(special - 4000 * share).max() < 5 * np.sqrt(4000 * share * (1 - share))
    share *= 100 / 118
    assert abs(ordinary - 4000 * share).max() < 5 * np.sqrt(4000 * share * (1 - share))


def test_rules_come_from_the_config(tmp_path):
    data = DataConfig(path="x", sequence_length=512, mask_probability=0.2)
    rules = MaskingRules.of(data, {"pad": 0, "cls": 1, "sep": 2, "mask": 3}, VOCAB, tmp_path)
    assert (rules.limit, rules.mask_id, rules.continues) == (103, 3, None)
    assert rules.ordinary_ids.tolist() == list(range(4, VOCAB))


def test_whole_words_without_a_tokenizer_are_refused(tmp_path):
    data = DataConfig(path="x", sequence_length=512, whole_word_masking=True)
    with pytest.raises(ValueError, match=r"whole_word_masking.*tokenizer.json does not exist"):
        MaskingRules.of(data, {"mask": 3}, VOCAB, tmp_path)
