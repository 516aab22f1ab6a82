"""benchmarks/cofi.py: structures are the published averages, figures agree, and its status follows them."""

import json
import subprocess
import sys

import pytest
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import cofi, model_pairs
from ofa.downstream.cofi.budget import parameter_costs
from ofa.models.structure import Sizes
from tests.processes import CHECKOUT, environment

BASE = Sizes(layers=12, heads=12, head_size=64, intermediate=3072, hidden=768)


@pytest.mark.parametrize("seed", range(5))
def test_structures_have_the_published_averages_and_some_layers_are_gone(seed):
    """cofi.md 3.7: 1.15 heads and 101 dimensions a layer, dropped layers counted in."""
    masks = cofi.drawn(BASE, seed, cofi.ALIVE)
    assert masks.head.sum() == 14 and masks.intermediate.sum() == pytest.approx(101 * 12, abs=8)
    assert (masks.attention == 0).sum() == 3 and (masks.ffn == 0).sum() == 5
    assert bool((masks.intermediate.sum(dim=1) % 8 == 0).all())
    costs = parameter_costs(BASE)
    assert 0.94 <= float(costs.sparsity(costs.of(masks))) <= 0.95
    whole = cofi.drawn(BASE, seed, cofi.ALL_ALIVE)
    assert whole.head.sum() == 14 and bool((whole.attention * whole.ffn == 1).all())


COUNTS = {"weights": 5, "weights_by_masks": 5, "encoder_flops": 7, "encoder_flops_by_masks": 7}
GOOD = {
    "speedup_batch1": 10.0,
    "speedup_batch8": 12.0,
    "sparsity": 0.945,
    "max_logit_difference": 1e-6,
    "structures": [COUNTS],
    "all_alive": COUNTS,
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"speedup_batch1": 9.99}, False),
        ({"speedup_batch8": float("nan")}, False),
        ({"sparsity": 0.93}, False),
        ({"max_logit_difference": 2e-4}, False),
        ({"structures": [{**COUNTS, "weights": 6}]}, False),
        ({"structures": [{**COUNTS, "encoder_flops": 8}]}, False),
        ({"all_alive": {**COUNTS, "weights": 6}}, False),
    ],
)
def test_a_figure_beyond_its_limit_is_wrong(change, right):
    """PERF-30, PERF-31: the limits."""
    assert cofi.is_right({**GOOD, **change}) is right


@pytest.fixture(scope="module")
def quick():
    """What a quick run says."""
    script = CHECKOUT / "benchmarks" / "cofi.py"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--json"], env=environment(), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_speed_is_reported_with_all_that_it_depends_on(quick):
    """COFI-40: device, type of numbers, batch, length, padding, attention, warm-up, middle and tail. Both models are
    measured by the same function, the dense one is a stock class, and what is reported as their attention is that of
    both. Settles the form of the report; PERF-31 settles the figures."""
    wanted = {"device": "cpu", "dtype": "float32", "length": 16, "padding": "none", "attention": "sdpa", "warm_up": 1}
    assert quick["setting"].items() >= wanted.items() and quick["setting"]["dense"] == "stock transformers"
    assert quick["setting"]["threads"] >= 1 and quick["hardware"] and quick["versions"]
    (row,) = quick["structures"]
    for name in ("dense_ms_batch1", "pruned_ms_batch1"):
        assert 0 < row[name]["p50"] <= row[name]["p90"] <= row[name]["p95"]


def test_both_sides_of_a_speed_up_are_measured_alike(monkeypatch):
    """COFI-40: one turn of each to warm up, then as many of each as were asked for, on the same rows; the dense model
    is of a stock class, and both have its attention."""
    seen = []

    def timed(work, device):
        work()
        return 1.0

    dense = BertForSequenceClassification(
        BertConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=64, vocab_size=1000)
    ).eval()
    masks = cofi.StructureMasks.ones(cofi.sizes_of(dense))
    masks.head[0] = 0
    small = cofi.materialise(dense, masks.canonical())
    for model in (dense, small):
        model.register_forward_pre_hook(
            lambda model, _, inputs: seen.append((model, inputs["input_ids"].shape, model.config._attn_implementation)),
            with_kwargs=True,
        )
    monkeypatch.setattr(model_pairs, "timed", timed)
    model_pairs.times(dense, small, 2, model_pairs.Setting(length=8, rounds=3))
    for model in (dense, small):
        assert [(shape, attention) for one, shape, attention in seen if one is model] == [((2, 8), "sdpa")] * 4
    assert type(dense).__module__.startswith("transformers.")


@pytest.mark.slow
def test_a_quick_run_counts_exactly(quick):
    """PERF-30: torch's own counts of weights and operations are those of the masks."""
    found, (row,) = quick, quick["structures"]
    assert row["weights"] == row["weights_by_masks"] and row["encoder_flops"] == row["encoder_flops_by_masks"]
    assert found["max_logit_difference"] <= 1e-5 and row["speedup_batch1"] > 0


@pytest.mark.parametrize(("swapped", "words"), [(True, "expected a stock class"), (False, "have sizes")])
def test_models_that_differ_by_more_than_their_structure_are_not_compared(swapped, words):
    """COFI-40"""
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50}
    dense, wider = (BertForSequenceClassification(BertConfig(intermediate_size=n, **sizes)) for n in (32, 64))
    small = cofi.materialise(wider, cofi.StructureMasks.ones(cofi.sizes_of(wider)))
    with pytest.raises(ValueError, match=words):
        model_pairs.check_alike(*((small, wider) if swapped else (dense, small)))
