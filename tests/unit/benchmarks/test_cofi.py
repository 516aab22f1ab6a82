"""benchmarks/cofi.py: structures are the published averages, figures agree, and its status follows them."""

import json
import subprocess
import sys

import pytest

from benchmarks import cofi
from ofa.downstream.cofi.budget import parameter_costs
from ofa.models.structure import Sizes
from tests.processes import CHECKOUT, environment

BASE = Sizes(layers=12, heads=12, head_size=64, intermediate=3072, hidden=768)


@pytest.mark.parametrize("seed", range(5))
def test_structures_have_the_published_averages_and_some_layers_are_gone(seed):
    """cofi.md 3.7: 1.15 heads and 101 dimensions a layer, dropped layers counted in."""
    masks = cofi.drawn(BASE, seed)
    assert masks.head.sum() == 14 and masks.intermediate.sum() == pytest.approx(101 * 12, abs=8)
    assert (masks.attention == 0).sum() == 3 and (masks.ffn == 0).sum() == 5
    assert bool((masks.intermediate.sum(dim=1) % 8 == 0).all())
    costs = parameter_costs(BASE)
    assert 0.94 <= float(costs.sparsity(costs.of(masks))) <= 0.95


GOOD = {
    "speedup_batch1": 10.0,
    "speedup_batch8": 12.0,
    "sparsity": 0.945,
    "max_logit_difference": 1e-6,
    "structures": [{"weights": 5, "weights_by_masks": 5, "encoder_flops": 7, "encoder_flops_by_masks": 7}],
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"speedup_batch1": 9.99}, False),
        ({"speedup_batch8": float("nan")}, False),
        ({"sparsity": 0.93}, False),
        ({"max_logit_difference": 2e-4}, False),
        ({"structures": [{**GOOD["structures"][0], "weights": 6}]}, False),
        ({"structures": [{**GOOD["structures"][0], "encoder_flops": 8}]}, False),
    ],
)
def test_a_figure_beyond_its_limit_is_wrong(change, right):
    """PERF-30, PERF-31: the limits."""
    assert cofi.is_right({**GOOD, **change}) is right


@pytest.mark.slow
def test_a_quick_run_counts_exactly():
    """PERF-30: torch's own counts of weights and operations are those of the masks."""
    script = CHECKOUT / "benchmarks" / "cofi.py"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--json"], env=environment(), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    (row,) = found["structures"]
    assert row["weights"] == row["weights_by_masks"] and row["encoder_flops"] == row["encoder_flops_by_masks"]
    assert found["max_logit_difference"] <= 1e-5 and row["speedup_batch1"] > 0
