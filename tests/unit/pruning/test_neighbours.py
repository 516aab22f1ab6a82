"""Groups of M neighbours: their smallest sums and who is spared, for every M and every kind of tie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.pruning.neighbours import BELOW_ALL, BY_LIMIT_FROM, MOST, NETWORK_FROM, lose_smallest, on_every

BAD = {"inf": float("inf"), "nan": float("nan")}


@st.composite
def groups(draw):
    """Magnitudes [groups, M] of few values, zeros of both signs and denormals among them, and how many are kept."""
    size = draw(st.integers(2, MOST) | st.sampled_from([2, 4, BY_LIMIT_FROM, NETWORK_FROM, MOST]))
    values = torch.tensor([BELOW_ALL, 0.0, 1e-45, 2e-45, 0.1, 0.1, 0.3, 7.7])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    drawn = values[torch.randint(len(values), (9, size), generator=generator)]
    return drawn, draw(st.integers(1, size - 1))


def lost_by(magnitudes, kept):
    """Sums of groups [groups, M], and who stays, of the same shape."""
    spared = torch.zeros(magnitudes.numel(), dtype=torch.bool)
    sums = lose_smallest(magnitudes.flatten(), magnitudes.shape[1], kept, spared)
    return sums, spared.view_as(magnitudes)


def order(group):
    """Places of a group from the first that is dropped on: -0.0 before 0.0, else the lowest place first."""
    bits = group.view(torch.int32).tolist()
    return sorted(range(len(bits)), key=lambda place: bits[place])


@settings(deadline=None)
@given(groups())
def test_the_largest_are_spared_and_of_equal_ones_the_last(drawn):
    """OFA-7: ties go by index, for every M."""
    magnitudes, kept = drawn
    for group, found in zip(magnitudes, lost_by(magnitudes, kept)[1], strict=True):
        assert sorted(order(group)[-kept:]) == found.nonzero().flatten().tolist()


@settings(deadline=None)
@given(groups())
def test_the_smallest_are_added_from_the_smallest_on(drawn):
    """OFA-7: fp32 sums depend on the order."""
    magnitudes, kept = drawn
    size = magnitudes.shape[1]
    for group, score in zip(magnitudes, lost_by(magnitudes, kept)[0], strict=True):
        lost = group[order(group)[: size - kept]]
        total = lost[0].clone()
        for loss in lost[1:]:
            total += loss
        assert torch.equal(score.view(torch.int32), total.view(torch.int32))  # the sign of a zero too


@pytest.mark.parametrize("size", range(2, MOST + 1))
def test_every_size_gives_what_a_stable_sort_gives(size):
    """OFA-7: drawn magnitudes, and all the same one, at every M that is allowed."""
    drawn = torch.randn(40, size, generator=torch.Generator().manual_seed(size)).abs()
    drawn[0] = drawn[1, 0]
    for kept in {1, size // 2, size - 1}:
        places = drawn.sort(dim=1, stable=True).indices
        _, spared = lost_by(drawn, kept)
        assert torch.equal(spared, torch.ones_like(spared).scatter_(1, places[:, : size - kept], False))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("size", [2, 4, 7, 8, 15, 16, 33, MOST])
@pytest.mark.parametrize("others", [BELOW_ALL, 0.0, 1.0])
def test_one_bad_weight_makes_its_group_bad_wherever_it_stands(size, bad, others):
    """Also where all that the group would lose is gone, whose score has a minus sign."""
    magnitudes = torch.full((size + 1, size), others)
    magnitudes[:size].fill_diagonal_(BAD[bad])
    for kept in (1, size - 1):
        scores, _ = lost_by(magnitudes, kept)
        assert (scores.view(torch.int32)[:size] >= 0x7F800000).all()
        assert scores[size].isfinite() and scores[size].signbit() == torch.tensor(others).signbit()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12, 16, MOST])
@pytest.mark.parametrize("groups", [0, 1, 50])
def test_a_groups_boolean_goes_to_every_weight(size, groups):
    chosen = torch.rand(groups, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(on_every(chosen, size), chosen.repeat_interleave(size))
