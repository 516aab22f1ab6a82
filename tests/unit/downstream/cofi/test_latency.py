"""Milliseconds as a cost: the table as a function, and a table of this machine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.cofi.finalise import UnitScores, finalise
from ofa.downstream.cofi.latency import LatencyCosts, LatencyTable, measure_latency
from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.models.structure import Sizes, StructureMasks
from tests.structures import random_gates, random_masks

SIZES = Sizes(layers=2, heads=4, head_size=8, intermediate=32, hidden=32)
TABLE = LatencyTable(heads=(0, 1, 2, 3, 4), heads_ms=(0, 1, 1.5, 1.5, 4), dims=(0, 8, 32), dims_ms=(0, 2, 5))


@pytest.mark.parametrize("dims, ms", [(0, 0.0), (4, 1.0), (8, 2.0), (20, 3.5), (32, 5.0)])
@pytest.mark.parametrize("heads", range(5))
def test_a_structure_takes_what_the_table_says(heads, dims, ms):
    """At its points to the bit, and on a line between them."""
    masks = StructureMasks.ones(SIZES)
    masks.head[1, heads:] = 0
    masks.intermediate[0, dims:] = 0
    expected = (4 + ms) + (TABLE.heads_ms[heads] + 5)
    assert float(LatencyCosts(TABLE, SIZES).of(masks)) == expected
    masks.attention[0] = masks.ffn[1] = 0
    assert float(LatencyCosts(TABLE, SIZES).of(masks)) == expected - 4 - 5


def test_the_dense_model_takes_the_total():
    costs = LatencyCosts(TABLE, SIZES)
    assert float(costs.of(StructureMasks.ones(SIZES))) == costs.total == 2 * (4 + 5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_gradients_are_finite_differences(seed):
    """COFI-8, between the table's points."""
    gates, costs = (
        random_gates(SIZES, ("head", "intermediate", "attention", "ffn"), seed=seed),
        LatencyCosts(TABLE, SIZES),
    )
    start = {name: p.detach().double() for name, p in vars(gates.open_probabilities()).items() if p is not None}
    moved = {name: p.clone().requires_grad_() for name, p in start.items()}
    costs.expected(OpenProbabilities(**moved)).backward()
    for name, values in start.items():
        step = torch.zeros_like(values)
        step.view(-1)[0] = 1e-7
        up, down = (float(costs.expected(OpenProbabilities(**{**start, name: values + s}))) for s in (step, -step))
        assert (up - down) / 2e-7 == pytest.approx(float(moved[name].grad.view(-1)[0]), rel=1e-4, abs=1e-6)


def test_closed_and_open_gates_are_expected_to_take_what_their_structure_takes():
    for seed in range(10):
        masks, costs = random_masks(SIZES, seed=seed), LatencyCosts(TABLE, SIZES)
        assert float(costs.expected(OpenProbabilities.of(masks))) == float(costs.of(masks))


@pytest.mark.parametrize("gated", [False, True])
def test_a_measured_table_is_one_and_finalises(gated):
    """On this machine: large sublayers take longer than nothing, and a target in milliseconds is met."""
    sizes = Sizes(layers=2, heads=4, head_size=16, intermediate=256, hidden=64)
    table = measure_latency(sizes, batch=1, length=32, gated=gated, rounds=3)
    assert table.heads == (0, 1, 2, 3, 4) and table.dims == (0, 8, *range(16, 257, 16))
    assert table.heads_ms[-1] > 0 and table.dims_ms[-1] > 0
    costs = LatencyCosts(table, sizes)
    scores = UnitScores(head=torch.rand(2, 4), intermediate=torch.rand(2, 256))
    assert float(costs.sparsity(costs.of(finalise(scores, costs, 0.5, multiple=16)))) >= 0.5


def test_a_gated_network_has_half_as_many_rows_again():
    """What is timed is a network of the asked kind: its time is above the plain one's where it is dear."""
    sizes = Sizes(layers=1, heads=1, head_size=8, intermediate=2048, hidden=256)
    plain, gated = (measure_latency(sizes, batch=2, length=64, gated=g, rounds=5).dims_ms[-1] for g in (False, True))
    assert gated > plain


@pytest.mark.parametrize(
    "table",
    [
        {"heads": (0, 2, 1), "heads_ms": (0, 1, 2)},
        {"heads": (0, 1), "heads_ms": (0.1, 1)},
        {"heads": (0, 1, 2), "heads_ms": (0, 2, 1)},
        {"heads": (1, 2), "heads_ms": (0, 1)},
        {"heads": (0, 1, 2), "heads_ms": (0, 1)},
    ],
)
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ValueError, match="rise from 0"):
        LatencyTable(**table, dims=(0, 8), dims_ms=(0, 1))


def test_a_table_of_another_model_and_hidden_gates_are_refused():
    with pytest.raises(ValueError, match="ends at 4 heads and 32 dimensions, the model has 4 and 64"):
        LatencyCosts(TABLE, Sizes(layers=2, heads=4, head_size=8, intermediate=64, hidden=32))
    with pytest.raises(ValueError, match="full hidden size"):
        LatencyCosts(TABLE, SIZES).of(StructureMasks.ones(SIZES, hidden=True))
