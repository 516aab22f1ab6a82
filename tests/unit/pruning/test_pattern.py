"""Units, their scores and what they drop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.pruning.pattern import GONE, PatternError, make_pattern
from tests.selection import units_of

TEXTS = ["unstructured", "1:2", "2:4", "4:8", "1:4", "3:7", "4:6", "8:16", "3:21", "1x4", "4x1", "2x3", "1x1", "8x8"]
SHAPE = (8, 336)
"""A multiple of every unit above."""
seeds = st.integers(0, 1000)


def drawn(seed, pattern):
    """Magnitudes, some equal, some zero, some gone, and what is expected of their units."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 6, SHAPE, generator=generator) * 0.3
    gone = torch.rand(SHAPE, generator=generator) < 0.4
    expected = units_of(pattern.text, values, gone.flatten().numpy())
    return torch.where(gone, GONE, values), expected


def scored(pattern, magnitudes, columns=SHAPE[1]):
    """Scores, and what stays if every unit is dropped."""
    spared = torch.zeros(magnitudes.numel(), dtype=torch.bool)
    return pattern.scores(magnitudes.flatten(), columns, spared), spared


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_scores_are_the_magnitudes_that_would_be_lost_added_in_one_order(text, seed):
    """OFA-7"""
    pattern = make_pattern(text)
    magnitudes, expected = drawn(seed, pattern)
    scores, _ = scored(pattern, magnitudes)
    assert scores.signbit().tolist() == [score < 0 for score, _ in expected]
    assert scores.clamp(min=0.0).tolist() == [max(0.0, float(score)) for score, _ in expected]
    assert pattern.unit * len(expected) == magnitudes.numel()


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_dropped_unit_drops_its_own_weights_and_no_other(text, seed):
    """OFA-7"""
    pattern = make_pattern(text)
    magnitudes, expected = drawn(seed, pattern)
    chosen = torch.rand(len(expected), generator=torch.Generator().manual_seed(seed)) < 0.5
    wanted = torch.zeros(magnitudes.numel(), dtype=torch.bool)
    for unit, (_, places) in zip(chosen.tolist(), expected, strict=True):
        wanted[torch.as_tensor(places)] = unit
    dropped = ~(scored(pattern, magnitudes)[1] | pattern.spread(~chosen, SHAPE[1]))
    assert torch.equal(dropped, wanted)
    assert int(dropped.sum()) == pattern.lost * int(chosen.sum())
    assert pattern.torn(~dropped.view(SHAPE)) == 0


@pytest.mark.parametrize("text", TEXTS)
def test_strips_by_themselves_give_the_same_scores_and_weights(text):
    """OFA-10: what a rank computes of its strips does not depend on the others."""
    pattern = make_pattern(text)
    magnitudes, _ = drawn(0, pattern)
    strip = pattern.strip(SHAPE)
    whole, spared = scored(pattern, magnitudes)
    apart = [scored(pattern, part) for part in magnitudes.flatten().split(strip)]
    assert torch.equal(whole, torch.cat([scores for scores, _ in apart]))
    assert torch.equal(spared, torch.cat([some for _, some in apart]))
    chosen = whole > whole.median()
    parts = [pattern.spread(units, SHAPE[1]) for units in chosen.split(strip // pattern.unit)]
    assert torch.equal(pattern.spread(chosen, SHAPE[1]), torch.cat(parts))


@pytest.mark.parametrize(
    ("text", "shape", "strip"),
    [("unstructured", (8, 12), 1), ("2:4", (8, 12), 4), ("1x4", (8, 12), 4), ("2x4", (8, 12), 24)],
)
def test_the_shortest_strip_that_cuts_no_unit(text, shape, strip):
    assert make_pattern(text).strip(shape) == strip


@pytest.mark.parametrize(
    ("text", "shape", "wanted"),
    [("2:4", (8, 6), "6 inputs"), ("4x1", (6, 8), "multiple of 4"), ("1x4", (8, 6), "of 4"), ("2x2", (8,), "two axes")],
)
def test_a_tensor_that_units_do_not_fill_is_refused_by_name(text, shape, wanted):
    """OFA-7"""
    with pytest.raises(PatternError, match="query.weight of shape.*" + wanted) as error:
        make_pattern(text).check("query.weight", shape)
    assert str(list(shape)) in str(error.value) and text in str(error.value)


def test_groups_that_a_byte_cannot_count_are_refused():
    make_pattern("64:128").check("w", (2, 256))
    with pytest.raises(PatternError, match="w cannot take pruning pattern 64:129: choose groups of at most 128"):
        make_pattern("64:129").check("w", (2, 129))


@pytest.mark.parametrize(("text", "share"), [("2:4", 0.5), ("4:8", 0.5), ("1:3", 0.666667), ("3:4", 0.25)])
def test_every_group_takes_the_pattern_at_one_minus_n_over_m(text, share):
    """OFA-7"""
    pattern = make_pattern(text)
    final = pattern.reachable(share)
    assert pattern.units_dropped(1_000_003, final) == 1_000_003
    assert pattern.units_dropped(1_000_003, final / 2) == 500_001
    assert pattern.units_dropped(1_000_003, 0.0) == 0


@given(st.sampled_from(TEXTS), st.integers(0, 10**9), st.floats(0, 0.999), st.floats(0, 0.999))
def test_more_sparsity_never_drops_fewer_units_and_never_more_than_there_are(text, units, one, other):
    pattern = make_pattern(text)
    fewer, more = (pattern.units_dropped(units, share) for share in sorted((one, other)))
    assert 0 <= fewer <= more <= units


@pytest.mark.parametrize("text", ["2:4", "4x1", "2x3"])
def test_a_unit_that_is_only_partly_dropped_is_counted_as_torn(text):
    pattern = make_pattern(text)
    keep = torch.ones(SHAPE, dtype=torch.bool)
    assert pattern.torn(keep) == 0
    keep[0, 0] = False
    assert pattern.torn(keep) == 1
    keep[7, 160] = False
    assert pattern.torn(keep) == 2


@pytest.mark.parametrize("text", ["2:4", "1x4", "4x1"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_one_bad_weight_makes_its_unit_bad_even_if_it_would_stay(text, bad):
    magnitudes = torch.ones(SHAPE)
    magnitudes[5, 17] = bad
    scores, _ = scored(make_pattern(text), magnitudes)
    assert int((~scores.isfinite()).sum()) == 1


def test_blocks_overflow_to_an_infinite_score():
    assert not scored(make_pattern("2x2"), torch.full((4,), 3e38), 2)[0].isfinite().any()


@pytest.mark.parametrize(
    ("sparsity", "units", "expected"), [(0.7, 85524480, 59867136), (0.57, 100, 57), (0.9, 589824, 530841)]
)
def test_the_floor_is_that_of_the_number_that_the_config_writes(sparsity, units, expected):
    """OFA-2, OFA-6: as floats 0.7 * 85524480 and 0.57 * 100 are a little below a whole number."""
    assert make_pattern("unstructured").units_dropped(units, sparsity) == expected
    assert make_pattern("4x1").units_dropped(units, sparsity) == expected


def test_a_pattern_is_reached_exactly_on_its_way():
    """OFA-7: 35 % of zeros are 70 % of the groups of 2:4, where floats say one less."""
    assert make_pattern("2:4").units_dropped(90, 0.35) == 63
