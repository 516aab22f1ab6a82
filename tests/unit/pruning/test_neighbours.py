"""Groups of M neighbours: their smallest sums and who is spared, for every M and every kind of tie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.pruning.neighbours import BELOW_ALL, MOST, members_of, on_every, smallest_sums, spare_largest

BAD = {"inf": float("inf"), "nan": float("nan")}


@st.composite
def groups(draw):
    """Magnitudes [groups, M] of few values, zeros of both signs and denormals among them, and how many are kept."""
    size = draw(st.sampled_from([*range(2, 17), 24, 31, MOST]))
    values = torch.tensor([BELOW_ALL, 0.0, 1e-45, 2e-45, 0.1, 0.1, 0.3, 7.7])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    drawn = values[torch.randint(len(values), (9, size), generator=generator)]
    return drawn, draw(st.sampled_from([1, size // 2, size - 1]))


def order(group):
    """Places of a group from the first that is dropped on: -0.0 before 0.0, else the lowest place first."""
    bits = group.view(torch.int32).tolist()
    return sorted(range(len(bits)), key=lambda place: bits[place])


@settings(deadline=None)
@given(groups())
def test_the_largest_are_spared_and_of_equal_ones_the_last(drawn):
    """OFA-7: ties go by index, for every M."""
    magnitudes, kept = drawn
    spared = torch.zeros(magnitudes.numel(), dtype=torch.bool)
    spare_largest(members_of(magnitudes.flatten(), magnitudes.shape[1]), kept, spared)
    for group, found in zip(magnitudes, spared.view_as(magnitudes), strict=True):
        assert sorted(order(group)[-kept:]) == found.nonzero().flatten().tolist()


@settings(deadline=None)
@given(groups())
def test_the_smallest_are_added_from_the_smallest_on(drawn):
    """OFA-7: fp32 sums depend on the order."""
    magnitudes, kept = drawn
    size = magnitudes.shape[1]
    found = smallest_sums(members_of(magnitudes.flatten(), size), size - kept)
    for group, score in zip(magnitudes, found, strict=True):
        lost = group[order(group)[: size - kept]]
        total = lost[0].clone()
        for loss in lost[1:]:
            total += loss
        assert torch.equal(score.view(torch.int32), total.view(torch.int32))  # the sign of a zero too


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("size", [2, 4, 7, 16])
@pytest.mark.parametrize("others", [BELOW_ALL, 0.0, 1.0])
def test_one_bad_weight_makes_its_group_bad_wherever_it_stands(size, bad, others):
    """Also where all that the group would lose is gone, whose score has a minus sign."""
    magnitudes = torch.full((size + 1, size), others)
    magnitudes[:size].fill_diagonal_(BAD[bad])
    for kept in (1, size - 1):
        scores = smallest_sums(members_of(magnitudes.flatten(), size), size - kept)
        assert (scores.view(torch.int32)[:size] >= 0x7F800000).all()
        assert scores[size].isfinite() and scores[size].signbit() == torch.tensor(others).signbit()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12, 16, MOST])
@pytest.mark.parametrize("groups", [0, 1, 50])
def test_a_groups_boolean_goes_to_every_weight(size, groups):
    chosen = torch.rand(groups, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(on_every(chosen, size), chosen.repeat_interleave(size))
