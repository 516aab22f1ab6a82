"""The baseline: scores of units from the magnitudes of their weights."""

import pytest
import torch

from ofa.downstream.cofi.budget import parameter_costs
from ofa.downstream.cofi.choose import refresh_steps
from ofa.downstream.cofi.finalise import finalise
from ofa.downstream.cofi.importance import magnitude_scores
from ofa.downstream.cofi.pruner import MagnitudeSearch
from ofa.downstream.cofi.stages import Stages
from ofa.downstream.cofi.units import LayerLinears
from ofa.models.structure import Sizes

SIZES = Sizes(layers=3, heads=4, head_size=8, intermediate=24, hidden=20)
UNITS = ("head", "intermediate", "attention", "ffn")


def random_weights(*, gated=False, seed=0):
    """Layers of standard normal weights."""
    torch.manual_seed(seed)
    up = 48 if gated else 24
    return [
        LayerLinears(torch.randn(96, 20), torch.randn(20, 32), torch.randn(up, 20), torch.randn(20, 24))
        for _ in range(3)
    ]


@pytest.mark.parametrize("gated", [False, True])
def test_a_score_is_the_root_mean_square_of_a_units_weights(gated):
    """Of every unit by itself, gathered by hand."""
    layers = random_weights(gated=gated)
    scores = magnitude_scores(layers, SIZES, UNITS)
    for layer, linears in enumerate(layers):
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            parts = [linears.qkv[32 * part :][rows] for part in range(3)] + [linears.attention_out[:, rows]]
            own = torch.cat([part.flatten() for part in parts]).double()
            assert float(scores.head[layer, head]) == pytest.approx(float(own.square().mean().sqrt()), rel=1e-12)
        for dim in range(24):
            own = torch.cat([linears.up[dim::24].flatten(), linears.down[:, dim]]).double()
            assert float(scores.intermediate[layer, dim]) == pytest.approx(float(own.square().mean().sqrt()), rel=1e-12)


def test_units_of_small_weights_are_the_ones_that_go():
    """One head and a few dimensions a layer, chosen by their weights alone, through the same budget."""
    layers = random_weights()
    for layer, linears in enumerate(layers):
        linears.qkv.view(3, 4, 8, 20)[:, layer].mul_(0.1)
        linears.attention_out.view(20, 4, 8)[:, layer].mul_(0.1)
        linears.up[8 * layer : 8 * layer + 8] *= 0.1
        linears.down[:, 8 * layer : 8 * layer + 8] *= 0.1
    small = 3 * (4 * 8 * 20 + 8 * 2 * 20)
    costs = parameter_costs(SIZES)
    masks = finalise(magnitude_scores(layers, SIZES, UNITS), costs, small / costs.total, multiple=8)
    assert [row.tolist().index(0) for row in masks.head] == [0, 1, 2] and int(masks.head.sum()) == 9
    for layer, row in enumerate(masks.intermediate):
        assert (row == 0).nonzero().flatten().tolist() == list(range(8 * layer, 8 * layer + 8))


def test_sublayers_get_no_score_and_families_that_are_not_pruned_none_either():
    assert magnitude_scores(random_weights(), SIZES, UNITS).families == ("head", "intermediate")
    assert magnitude_scores(random_weights(), SIZES, ("head",)).families == ("head",)


@pytest.mark.parametrize("families", [("hidden", "head"), ("attention", "ffn")])
def test_what_magnitudes_cannot_rank_is_refused(families):
    with pytest.raises(ValueError, match="magnitudes rank heads and intermediate dimensions"):
        magnitude_scores(random_weights(), SIZES, families)


@pytest.mark.parametrize("begin, ramp_end", [(7, 107), (0, 10), (3, 88), (5, 5)])
def test_units_are_chosen_for_the_last_time_where_the_target_is_final(begin, ramp_end):
    """Whatever the length of the ramp; later weights change neither the masks in force nor the final structure."""
    stages, costs, now = Stages(begin, ramp_end, ramp_end + 30, ramp_end + 40), parameter_costs(SIZES), [0]
    chosen = {}

    def scores():
        chosen[now[0]] = stages.target(0.0, 0.8, now[0])
        return magnitude_scores(random_weights(seed=now[0]), SIZES, UNITS)

    steps = refresh_steps(stages)
    search = MagnitudeSearch(scores, costs, steps=steps, multiple=1, now=lambda: now[0], device=torch.device("cpu"))
    for now[0] in range(begin, stages.pruned):
        search.refresh(stages.target(0.0, 0.8, now[0]))
    now[0] = stages.pruned
    final = search.hard(0.8)
    assert max(chosen) == ramp_end and chosen[ramp_end] == 0.8 and set(chosen) == set(steps) and len(chosen) <= 42
    assert final is search.sample() and 0.8 <= float(costs.sparsity(costs.of(final))) < 0.83
