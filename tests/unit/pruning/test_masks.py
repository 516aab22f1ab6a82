"""Selection of what is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.pruning.masks import dropped_count, keep_largest


def kept_by_sorting(scores, sparsity):
    """The oracle: drop the first floor(s n) of a stable sort."""
    flat = scores.flatten().numpy()
    keep = np.ones(flat.size, dtype=bool)
    keep[np.argsort(flat, kind="stable")[: int(sparsity * flat.size)]] = False
    return torch.from_numpy(keep).view_as(scores)


SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=200).map(torch.tensor)


@given(SCORES, st.floats(0, 0.999))
def test_selection_equals_a_stable_sort_also_with_ties(scores, sparsity):
    """OFA-2"""
    assert torch.equal(keep_largest(scores, sparsity), kept_by_sorting(scores, sparsity))


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.999))
def test_selection_equals_a_stable_sort_on_distinct_scores(seed, sparsity):
    """OFA-2"""
    scores = torch.randn(37, 5, generator=torch.Generator().manual_seed(seed)).abs()
    assert torch.equal(keep_largest(scores, sparsity), kept_by_sorting(scores, sparsity))


@pytest.mark.parametrize(
    ("shape", "sparsity", "zeros"),
    [((768, 768), 0.9, 530_841), ((768, 3072), 0.9, 2_123_366), ((1024, 1024), 0.9, 943_718)]
    + [((1024, 4096), 0.9, 3_774_873), ((768, 768), 0.85, 501_350), ((768, 3072), 0.85, 2_005_401)]
    + [((1024, 1024), 0.85, 891_289), ((1024, 4096), 0.85, 3_565_158)],
)
def test_the_published_counts_are_exact(shape, sparsity, zeros):
    """OFA-2, PERF-13"""
    keep = keep_largest(torch.rand(shape, generator=torch.Generator().manual_seed(0)), sparsity)
    assert int((~keep).sum()) == zeros == dropped_count(keep.numel(), sparsity)


def test_equal_magnitudes_are_dropped_from_the_lowest_index():
    """OFA-2"""
    keep = keep_largest(torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0]), 0.4)
    assert keep.tolist() == [False, False, True, True, True]


def test_drop_all_drops_every_tie_as_the_published_code_does():
    keep = keep_largest(torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0]), 0.4, ties="drop_all")
    assert keep.tolist() == [False, False, True, False, False]


def test_nothing_is_dropped_below_one_weight():
    assert keep_largest(torch.rand(9), 0.1).all()


def test_ranking_rounded_weights_would_tie_and_is_refused():
    """OFA-3: bf16 keeps 8 bits of a magnitude, so thousands of weights tie at the threshold."""
    weights = torch.randn(768, 3072, generator=torch.Generator().manual_seed(0)) * 0.04
    rounded = weights.bfloat16()
    threshold = rounded.float().abs().flatten().kthvalue(int(0.9 * weights.numel())).values
    assert int((rounded.float().abs() == threshold).sum()) > 0.002 * weights.numel()
    with pytest.raises(ValueError, match="fp32"):
        keep_largest(rounded.abs(), 0.9)
    assert int((~keep_largest(weights.abs(), 0.9)).sum()) == 2_123_366


def test_adversarial_ties_keep_the_exact_count():
    """OFA-3"""
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16().float().abs()
    keep = keep_largest(weights, 0.9)
    assert int((~keep).sum()) == int(0.9 * 4096)
    assert torch.equal(keep, kept_by_sorting(weights, 0.9))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="diverged"):
        keep_largest(torch.tensor([1.0, bad, 2.0]), 0.5)
