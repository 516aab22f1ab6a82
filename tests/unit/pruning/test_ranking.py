"""Selection of a whole scope: equal to sorting, for every pattern, on any number of ranks, however they are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from ofa.config import PruningConfig
from ofa.pruning import kth
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import Span
from ofa.pruning.ranking import select_whole
from ofa.recipe import Knobs
from tests.reads import Reads, seen
from tests.selection import keep_by_sorting, keep_largest, make_groups, on_ranks, spans_of

PATTERNS = ["unstructured", "2:4", "4:8", "1:2", "1x4", "4x1", "2x2", "4x4"]
SHAPES = {"a": torch.Size([8, 16]), "b": torch.Size([4, 8]), "c": torch.Size([12, 8])}
FULL = {"2:4": 0.5, "4:8": 0.5, "1:2": 0.5}
TINIEST = 1e-45
"""The smallest fp32 number above 0."""

patterns = st.sampled_from(PATTERNS)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 0.999)


def smooth(seed):
    """Named weights without ties."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def tied(seed):
    """Named weights of a few values, zeros of both signs and denormals among them."""
    values = torch.tensor([0.0, -0.0, TINIEST, -2 * TINIEST, 0.25, -0.25, 1.0, 1.0, -3.5])
    generator = torch.Generator().manual_seed(seed)
    return {name: values[torch.randint(len(values), shape, generator=generator)] for name, shape in SHAPES.items()}


def reached(pattern, share):
    """The sparsity at a share of the way to the most that a pattern can have."""
    return share * FULL.get(pattern, 1.0)


def same(one, other):
    """Whether two sets of named tensors are equal."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def dropped(keep):
    """Zeros of all masks."""
    return sum(int((~mask).sum()) for mask in keep.values())


@settings(deadline=None)
@given(patterns, st.booleans(), st.sampled_from([smooth, tied]), seeds, shares)
def test_selection_equals_sorting(pattern, together, make, seed, share):
    """OFA-2, OFA-6, OFA-7"""
    weights, sparsity = make(seed), reached(pattern, share)
    groups = make_groups(weights, pattern, sparsity, together)
    sparsities = [sparsity] * len(groups)
    assert same(select_whole(groups, weights, sparsities), keep_by_sorting(groups, weights, sparsities))


@st.composite
def divisions(draw):
    """Spans of one to three ranks, cut anywhere; a rank may hold nothing, or several pieces of a tensor."""
    ranks = draw(st.integers(1, 3))
    cuts = draw(st.lists(st.floats(0, 1), max_size=3))
    owners = draw(st.lists(st.integers(0, ranks - 1), min_size=1, max_size=6))
    return spans_of(SHAPES, cuts, owners, ranks)


@settings(deadline=None)
@given(divisions(), patterns, st.booleans(), st.sampled_from([smooth, tied]), seeds, shares, st.booleans())
def test_masks_are_the_same_for_any_number_of_ranks_and_any_cut(spans, pattern, together, make, seed, share, hard):
    """OFA-10, PERF-12"""
    weights, sparsity = make(seed), reached(pattern, share)
    groups = make_groups(weights, pattern, sparsity, together)
    sparsities = [sparsity] * len(groups)
    frozen = select_whole(groups, weights, [sparsity / 2] * len(groups)) if hard else None
    expected = keep_by_sorting(groups, weights, sparsities, frozen)
    for masks in on_ranks(spans, groups, weights, sparsities, frozen):
        assert same(masks, expected)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([("8:16", 0.5), ("1:16", 15 / 16), ("15:16", 1 / 16), ("4:12", 2 / 3), ("5:6", 1 / 6)]),
    st.lists(st.floats(0, 1), max_size=3),
    seeds,
    st.sampled_from([0.3, 0.8, 1.0]),
    st.booleans(),
)
def test_long_groups_are_selected_as_by_sorting_on_two_ranks(pattern, cuts, seed, share, hard):
    """OFA-7, OFA-10: more neighbours than one integer holds, ties among them, and some gone for good."""
    (text, full), shapes = pattern, {"a": torch.Size([3, 48]), "b": torch.Size([2, 96])}
    values = torch.tensor([0.0, -0.0, TINIEST, 0.25, -0.25, 1.0])
    generator = torch.Generator().manual_seed(seed)
    weights = {name: values[torch.randint(len(values), shape, generator=generator)] for name, shape in shapes.items()}
    groups, sparsities = make_groups(shapes, text, full, True), [share * full]
    frozen = select_whole(groups, weights, [sparsities[0] / 2]) if hard else None
    expected = keep_by_sorting(groups, weights, sparsities, frozen)
    for masks in on_ranks(spans_of(shapes, cuts, [0, 1], 2), groups, weights, sparsities, frozen):
        assert same(masks, expected)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_one_global_ranking_drops_exactly_the_floor_of_all_weights(ranks):
    """OFA-6"""
    weights = smooth(0)
    spans = spans_of(SHAPES, [0.37, 0.81], [0, 1, 2], ranks)
    total = sum(weight.numel() for weight in weights.values())
    for sparsity in (0.1, 0.5, 0.777, 0.9):
        for keep in on_ranks(spans, make_groups(weights, "unstructured", sparsity, True), weights, [sparsity]):
            assert dropped(keep) == int(sparsity * total)
            assert len({round(float((~mask).float().mean()), 3) for mask in keep.values()}) > 1


@given(seeds, shares, st.sampled_from([smooth, tied]))
def test_drop_all_drops_every_tie_as_the_published_code_does(seed, share, make):
    """OFA-5"""
    weights = make(seed)
    groups = make_groups(weights, "unstructured", share, False)
    keep = select_whole(groups, weights, [share] * 3, ties="drop_all")
    assert same(keep, {name: keep_largest(weight.abs(), share, "drop_all") for name, weight in weights.items()})


@pytest.mark.parametrize(
    ("shape", "sparsity", "zeros"),
    [((768, 768), 0.9, 530_841), ((768, 3072), 0.9, 2_123_366), ((1024, 1024), 0.9, 943_718)]
    + [((1024, 4096), 0.9, 3_774_873), ((768, 768), 0.85, 501_350), ((768, 3072), 0.85, 2_005_401)]
    + [((1024, 1024), 0.85, 891_289), ((1024, 4096), 0.85, 3_565_158)],
)
def test_the_published_counts_are_exact(shape, sparsity, zeros):
    """OFA-2, PERF-13"""
    weights = {"w": torch.rand(shape, generator=torch.Generator().manual_seed(0))}
    groups = make_groups(weights, "unstructured", sparsity, False)
    assert dropped(select_whole(groups, weights, [sparsity])) == zeros == groups[0].zeros({"w": shape}, sparsity)


def test_equal_magnitudes_are_dropped_from_the_lowest_index_and_the_first_tensor():
    """OFA-2"""
    weights = {"z": torch.tensor([[1.0, -1.0, 2.0]]), "a": torch.tensor([[-1.0, 1.0, 1.0]])}
    keep = select_whole(make_groups(weights, "unstructured", 0.5, True), weights, [0.5])
    assert keep["z"].tolist() == [[False, False, True]] and keep["a"].tolist() == [[False, True, True]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_weights_that_are_all_equal_keep_the_exact_count(pattern):
    """OFA-3: the hardest tie."""
    weights = {name: torch.full(shape, -0.5) for name, shape in SHAPES.items()}
    sparsity = reached(pattern, 0.7)
    spans = spans_of(SHAPES, [0.3, 0.55], [1, 0, 2, 0], 3)
    groups = make_groups(weights, pattern, sparsity, True)
    for keep in on_ranks(spans, groups, weights, [sparsity]):
        assert dropped(keep) == groups[0].zeros(SHAPES, sparsity)
        assert same(keep, keep_by_sorting(groups, weights, [sparsity]))


def test_denormals_are_told_apart_and_both_zeros_are_one():
    """OFA-3"""
    weights = {"w": torch.tensor([[3 * TINIEST, -0.0, TINIEST, 0.0, -2 * TINIEST, 1.0]])}
    keep = select_whole(make_groups(weights, "unstructured", 0.5, False), weights, [0.5])
    assert keep["w"].tolist() == [[True, False, False, False, True, True]]


def test_ranking_rounded_weights_would_tie_and_is_refused():
    """OFA-3: bf16 keeps 8 bits of a magnitude, so thousands of weights tie at the threshold."""
    weights = {"w": torch.randn(768, 3072, generator=torch.Generator().manual_seed(0)) * 0.04}
    rounded = weights["w"].bfloat16()
    threshold = rounded.float().abs().flatten().kthvalue(int(0.9 * rounded.numel())).values
    assert int((rounded.float().abs() == threshold).sum()) > 0.002 * rounded.numel()
    groups = make_groups(weights, "unstructured", 0.9, False)
    with pytest.raises(ValueError, match="fp32.*bfloat16"):
        select_whole(groups, {"w": rounded}, [0.9])


@settings(deadline=None)
@given(
    patterns,
    st.sampled_from([float("nan"), -float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(list(SHAPES)),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)
def test_one_weight_that_is_not_finite_is_refused_on_every_rank(pattern, bad, name, place, together):
    weights = smooth(0)
    weights[name].view(-1)[int(place * weights[name].numel())] = bad
    groups = make_groups(weights, pattern, 0.25, together)
    for found in on_ranks(spans_of(SHAPES, [0.3, 0.8], [0, 1, 0], 2), groups, weights, [0.25] * len(groups)):
        assert isinstance(found, ValueError) and "diverged" in str(found)


def test_a_nan_of_any_bit_pattern_is_refused():
    """GPUs make NaNs of all ones, which must not wrap around to the smallest key."""
    for bits in (0x7FFFFFFF, -1, 0x7F800001, -(2**22)):
        weights = {"w": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
        weights["w"].view(torch.int32)[0, 1] = bits
        with pytest.raises(ValueError, match="diverged"):
            select_whole(make_groups(weights, "unstructured", 0.5, False), weights, [0.5])


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_a_weight_that_is_not_finite_is_refused_in_a_group_that_has_lost_its_share_for_good(bad, sparsity):
    weights = {"w": torch.ones(2, 4)}
    frozen = {"w": torch.tensor([[True, False, False, True], [True] * 4])}
    weights["w"][0, 3] = bad
    groups = make_groups(weights, "2:4", 0.5, False)
    for found in on_ranks(spans_of({"w": torch.Size([2, 4])}, [0.3], [0, 1], 2), groups, weights, [sparsity], frozen):
        assert isinstance(found, ValueError) and "diverged" in str(found)


@settings(deadline=None)
@given(patterns, st.booleans(), seeds, st.lists(shares, min_size=2, max_size=5).map(sorted))
def test_nothing_comes_back_under_a_rising_sparsity_where_dropped_means_for_good(pattern, together, seed, ramp):
    weights = smooth(seed)
    frozen = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    groups = make_groups(weights, pattern, 0.5, together)
    for share in ramp:
        sparsity = reached(pattern, share)
        keep = select_whole_frozen(groups, weights, sparsity, frozen)
        assert not any((keep[name] & ~frozen[name]).any() for name in keep)
        assert dropped(keep) == sum(group.zeros(SHAPES, sparsity) for group in groups)
        frozen = keep
        # Hard pruning zeroes; what lives moves on, through zero too.
        generator = torch.Generator().manual_seed(seed + 1)
        for name, weight in weights.items():
            weight += torch.randn(weight.shape, generator=generator)
            weight.view(-1)[::5] = 0.0
            weight *= keep[name]


def select_whole_frozen(groups, weights, sparsity, frozen):
    """Select on one rank with masks whose dropped weights stay dropped."""
    return on_ranks(spans_of(SHAPES, [], [0], 1), groups, weights, [sparsity] * len(groups), frozen)[0]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_masks_that_are_for_good_weights_do_come_back(pattern):
    """Else the test above would pass without its subject."""
    groups = make_groups(SHAPES, pattern, 0.25, False)
    one, other = (select_whole(groups, smooth(seed), [0.25] * 3) for seed in (0, 1))
    assert any((other[name] & ~one[name]).any() for name in one)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("together", [True, False])
def test_a_rising_ramp_drops_more_and_more_units_of_the_same_weights(pattern, together):
    """Under a ramp the groups that lose least take the pattern first."""
    weights, groups = smooth(0), make_groups(SHAPES, pattern, 0.5, together)
    masks = [select_whole(groups, weights, [reached(pattern, step / 20)] * len(groups)) for step in range(20)]
    for fewer, more in zip(masks, masks[1:], strict=False):
        assert all((fewer[name] | ~more[name]).all() for name in fewer)
    assert dropped(masks[0]) == 0 < dropped(masks[10]) < dropped(masks[-1])
    assert all(group.pattern.torn(mask) == 0 for masks_ in masks for group in groups for mask in masks_.values())


def test_a_scope_of_one_weight_and_a_sparsity_of_nothing_keep_everything():
    weights = {"w": torch.ones(1, 1)}
    assert select_whole(make_groups(weights, "unstructured", 0.9, False), weights, [0.9])["w"].all()
    assert select_whole(make_groups(weights, "unstructured", 0.0, False), weights, [0.0])["w"].all()


@pytest.mark.parametrize("together", [True, False])
def test_two_of_four_goes_through_torchs_semi_structured_conversion_and_back(together):
    """OFA-7"""
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(64, 128, generator=generator) for i in range(2)}
    keep = select_whole(make_groups(weights, "2:4", 0.5, together), weights, [0.5] * (1 if together else 2))
    for name, weight in weights.items():
        assert (keep[name].view(-1, 4).sum(dim=1) == 2).all()
        masked = (weight * keep[name]).half()
        packed, meta = sparse_semi_structured_from_dense_cutlass(masked)
        assert packed.shape == (64, 64)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), masked)


def counted_digits(keys, prefix, shift, bits):
    """What a GPU counts, without its histogram."""
    digits = (keys >> shift) - (prefix << bits)
    inside = torch.where((digits >= 0) & (digits < 2**bits), digits, 2**bits)
    counts = torch.zeros(2**bits + 1, dtype=torch.int64)
    return counts.index_add_(0, inside.long(), torch.ones(len(inside), dtype=torch.int64))[:-1]


class Plain:
    """fp32 weights on their own, as `ofa.pruning.pruner.Weights`."""

    def __init__(self, weights):
        self.weights, self.device = weights, torch.device("cpu")
        self.shapes = {name: weight.shape for name, weight in weights.items()}

    def spans(self):
        """One rank holds all."""
        return [[Span(name, 0, weight.numel()) for name, weight in self.weights.items()]]

    def masters(self):
        """Themselves."""
        return [weight.detach().view(-1) for weight in self.weights.values()]

    def mask_live(self, keep):
        """In place."""
        for name, mask in keep.items():
            self.weights[name].data.mul_(mask)

    zero_dropped = mask_live


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_a_refresh_reads_the_device_twice_however_many_tensors(monkeypatch, pattern):
    """OFA-6: once for all thresholds, and once for what changed, which the metrics line of every refresh says."""
    monkeypatch.setattr(kth, "_matching", lambda keys, prefix, shift: keys)  # as on a GPU
    monkeypatch.setattr(kth, "_count_digits", counted_digits)
    weights = {f"w{i}": nn.Parameter(torch.randn(8, 8)) for i in range(73)}
    config = PruningConfig(sparsity=0.5, pattern=pattern, ramp_end=4, end=4, frequency=4)
    pruner = MagnitudePruner(config, weights, Plain(weights))
    knobs = Knobs(step=4, lr=0.1, sparsity=0.5, update_mask=True, last_update=True, remaining=0.0)
    reads = seen(Reads(), lambda: pruner.before_step(knobs))
    assert reads.by_place == {"ours: ranking.py _limits": 1, "ours: mask_set.py replace": 1}
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == 73 * 32


def test_masters_are_left_as_they_are():
    weights = smooth(0)
    before = {name: weight.clone() for name, weight in weights.items()}
    for pattern in PATTERNS:
        select_whole(make_groups(weights, pattern, 0.4, True), weights, [0.4])
    assert same(weights, before)


def test_a_scope_that_does_not_divide_is_refused_before_anything_is_ranked():
    weights = {"w": torch.ones(6, 6)}
    with pytest.raises(ValueError, match=r"w of shape \[6, 6\] does not divide.*2:4.*6 inputs a multiple of 4"):
        select_whole(make_groups(weights, "2:4", 0.5, False), weights, [0.5])
