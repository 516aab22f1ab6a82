"""Layers of teacher and student brought together: against brute force, and never a dead one."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.cofi.matching import align, chosen_layers
from tests.reads import Reads, seen

HOW = ("fixed", "free", "monotone")


@st.composite
def problems(draw, largest=12, dead_costs=(0.0,)):
    """(costs [K, L], alive [L]): whole numbers, so that sums are exact and ties happen; dead layers look best."""
    count, layers = draw(st.integers(1, 4)), draw(st.integers(1, largest))
    alive = draw(st.lists(st.booleans(), min_size=layers, max_size=layers).filter(any))
    numbers = st.lists(st.integers(1, 9), min_size=count * layers, max_size=count * layers)
    costs = torch.tensor(draw(numbers), dtype=torch.float32).view(count, layers)
    alive = torch.tensor(alive)
    costs[:, ~alive] = draw(st.sampled_from(dead_costs))
    return costs, alive


def total(costs, layers):
    """Sum of the distances of an alignment."""
    return sum(costs[k, layer].item() for k, layer in enumerate(layers))


def brute_force(costs, alive):
    """Least sum over all increasing sequences of layers that live; over non-decreasing ones where they are few."""
    living = alive.nonzero().flatten().tolist()
    count = len(costs)
    few = len(living) < count
    sequences = itertools.combinations_with_replacement if few else itertools.combinations
    return min(total(costs, layers) for layers in sequences(living, count))


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_the_monotone_alignment_is_the_best_of_all_in_order(problem):
    """COFI-33: equals brute force, up to 4 x 12, with dead layers that would cost nothing."""
    costs, alive = problem
    chosen = align(costs, alive, "monotone")
    steps = chosen.diff()
    assert (steps > 0).all() if alive.sum() >= len(costs) else (steps >= 0).all()
    assert alive[chosen].all()
    assert total(costs, chosen.tolist()) == brute_force(costs, alive)


def test_the_monotone_alignment_of_random_4_x_12_costs_is_that_of_brute_force():
    """COFI-33: where no two sums are equal, also the layers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs = torch.rand(4, 12, generator=generator, dtype=torch.float64)
        alive = torch.rand(12, generator=generator) < 0.6
        if alive.sum() < 4:
            alive[:4] = True
        sequences = itertools.combinations(alive.nonzero().flatten().tolist(), 4)
        best = min(sequences, key=lambda layers: total(costs, layers))  # noqa: B023
        assert align(costs, alive, "monotone").tolist() == list(best)


def test_an_alignment_from_the_top_down_would_be_worse():
    """COFI-33: the greedy one takes the nearest layer for the top first, and leaves the others nothing good."""
    costs, alive = torch.tensor([[9.0, 1.0, 9.0], [9.0, 2.0, 3.0]]), torch.ones(3, dtype=torch.bool)
    assert align(costs, alive, "monotone").tolist() == [1, 2]
    assert align(costs, alive, "free").tolist() == [1, 1]


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_the_free_alignment_takes_the_nearest_that_lives(problem):
    """COFI-33"""
    costs, alive = problem
    chosen = align(costs, alive, "free")
    assert alive[chosen].all()
    assert torch.equal(costs.gather(1, chosen[:, None])[:, 0], costs[:, alive].amin(dim=1))


@settings(max_examples=200, deadline=None)
@given(problem=problems(), data=st.data())
def test_the_free_alignment_follows_layers_that_change_places(problem, data):
    """COFI-33, the permutation test for B7: the published code takes places in a sorted list for layer numbers."""
    costs, alive = problem
    costs = costs + torch.rand(costs.shape)  # no ties, which are broken by place
    order = torch.tensor(data.draw(st.permutations(range(len(alive)))))
    moved = align(costs[:, order], alive[order], "free")
    assert torch.equal(order[moved], align(costs, alive, "free"))


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=100, deadline=None)
@given(problem=problems(dead_costs=(0.0, float("nan"), float("inf"), -1.0)))
def test_dead_layers_change_nothing(how, problem):
    """COFI-33, B7: as if the student had only the layers that live, whatever the distances of the others."""
    costs, alive = problem
    living = alive.nonzero().flatten()
    alone = align(costs[:, alive], torch.ones(len(living), dtype=torch.bool), how)
    assert torch.equal(align(costs, alive, how), living[alone])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.finfo(torch.float32).max])
def test_distances_that_are_no_numbers_still_give_a_layer_that_lives(how, value):
    """COFI-33, B8: a forward that went wrong is skipped by the guard, not by an index out of range."""
    alive = torch.tensor([False, True, False, True, True, False])
    assert alive[align(torch.full((3, 6), value), alive, how)].all()


@pytest.mark.parametrize("how", HOW)
def test_without_a_layer_that_lives_all_count_as_alive(how):
    """B8"""
    costs = torch.rand(4, 12)
    none, all_of_them = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    assert torch.equal(align(costs, none, how), align(costs, all_of_them, how))


def test_the_fixed_alignment_of_all_layers_is_the_published_one():
    """CoFi's 3, 6, 9, 12 (from 1), TinyBERT's uniform map for 24 and 4 layers; every second living layer of 8."""
    costs = torch.zeros(4, 12)
    everything = torch.ones(24, dtype=torch.bool)
    assert align(costs, everything[:12], "fixed").tolist() == [2, 5, 8, 11]
    assert align(torch.zeros(4, 24), everything, "fixed").tolist() == [5, 11, 17, 23]
    assert align(torch.zeros(4, 4), everything[:4], "fixed").tolist() == [0, 1, 2, 3]
    alive = torch.tensor([True, True, False, True, True, False, True, True, False, True, True, False])
    assert align(costs, alive, "fixed").tolist() == [1, 4, 7, 10]


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_the_fixed_alignment_is_even_and_ends_at_the_top(problem):
    """COFI-33: windows of the layers that live differ by one at most."""
    costs, alive = problem
    places = (alive.cumsum(0) - 1)[align(costs, alive, "fixed")]
    assert places[-1] == alive.sum() - 1
    widths = torch.cat([places[:1] + 1, places.diff()])
    assert widths.max() - widths.min() <= 1


def test_evenly_chosen_layers_are_the_published_ones():
    assert chosen_layers(12, "even", seed=1, step=5) == (2, 5, 8, 11)
    assert chosen_layers(6, "even", seed=1, step=5) == (1, 2, 4, 5)
    assert chosen_layers(24, "even", seed=1, step=5, count=6) == (3, 7, 11, 15, 19, 23)
    assert chosen_layers(3, "even", seed=1, step=5) == (0, 1, 2)


@settings(max_examples=100, deadline=None)
@given(layers=st.integers(1, 30), count=st.integers(1, 8), seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
def test_random_layers_are_one_of_each_window(layers, count, seed, step):
    """RAIL-KD: in order, from all depths, and a function of seed and step alone."""
    drawn = chosen_layers(layers, "random", seed, step, count=count)
    ends = chosen_layers(layers, "even", seed, step, count=count)
    starts = (0, *(end + 1 for end in ends[:-1]))
    assert len(drawn) == min(count, layers)
    assert all(start <= layer <= end for start, layer, end in zip(starts, drawn, ends, strict=True))
    assert drawn == chosen_layers(layers, "random", seed, step, count=count)


def test_random_layers_are_uniform_over_steps_and_differ_by_seed():
    """Each layer of a window of 3 in a third of 3,000 steps, within five standard deviations."""
    drawn = torch.tensor([chosen_layers(12, "random", 7, step) for step in range(3000)])
    counts = torch.bincount(drawn.flatten(), minlength=12)
    assert (counts - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5
    others = torch.tensor([chosen_layers(12, "random", 8, step) for step in range(3000)])
    assert 0.3 < (drawn == others).float().mean() < 0.37


@pytest.mark.parametrize("how", HOW)
def test_an_alignment_never_waits_for_the_device(how):
    """No read: the number of layers that live stays on the device."""
    costs, alive = torch.rand(4, 12), torch.rand(12) < 0.5
    assert not seen(Reads(), lambda: align(costs, alive, how)).by_place
