"""What structures cost: against counts of real tensors, simulation and finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForMaskedLM

from ofa.downstream.cofi.budget import NonzeroCosts, mac_costs, parameter_costs
from ofa.downstream.cofi.gates import FAMILIES, Gates, hard_concrete, open_probability
from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.downstream.cofi.units import LayerLinears
from ofa.flops import encoder_flops
from ofa.models.adapters import ADAPTERS, adapter_for, encoder_names, shape
from ofa.models.blocks import sizes_of
from ofa.models.structure import Sizes, StructureMasks
from tests.structures import BERT_BASE, published_structure, random_gates, random_masks, small_sizes

SMALL = Sizes(layers=3, heads=4, head_size=8, intermediate=24, hidden=20)


def random_linears(sizes, *, gated=False, seed=0, share=0.3):
    """Boolean keep masks of a sparse base."""
    generator = torch.Generator().manual_seed(seed)
    width, up = sizes.heads * sizes.head_size, sizes.intermediate * (2 if gated else 1)
    shapes = ((3 * width, sizes.hidden), (sizes.hidden, width), (up, sizes.hidden), (sizes.hidden, sizes.intermediate))
    return [
        LayerLinears(*(torch.rand(shape, generator=generator) < share for shape in shapes)) for _ in range(sizes.layers)
    ]


def sliced(linears, masks, layer, sizes):
    """What is left of a layer's tensors: a Linear by itself, with the rows and columns of units that live."""
    hidden = torch.ones(sizes.hidden) if masks.hidden is None else masks.hidden
    heads = (masks.head[layer] * masks.attention[layer]).repeat_interleave(sizes.head_size) > 0
    dims, kept = masks.intermediate[layer] * masks.ffn[layer] > 0, hidden > 0
    up = dims.repeat(linears.up.shape[0] // sizes.intermediate)
    return (
        linears.qkv[heads.repeat(3)][:, kept],
        linears.attention_out[kept][:, heads],
        linears.up[up][:, kept],
        linears.down[kept][:, dims],
    )


def every_cost(sizes, *, hidden=True, gated=False):
    """One of each kind that is linear in units."""
    keep = random_linears(sizes, gated=gated)
    return {
        "params": parameter_costs(sizes, gated=gated),
        "macs": mac_costs(sizes, 16, gated=gated),
        "nnz": NonzeroCosts(keep, sizes, hidden=hidden),
    }


KINDS = ("params", "macs", "nnz")


@pytest.mark.parametrize("row", ADAPTERS, ids=lambda row: row.model_type)
def test_all_gates_open_cost_the_weights_of_the_real_model(row):
    """COFI-6, over every adapter at its stock size."""
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(row.model_type))
    parameters = dict(model.named_parameters())
    real = sum(parameters[name].numel() for name in encoder_names(model))
    costs = parameter_costs(sizes_of(model), gated=adapter_for(row.model_type).blocks.gated)
    everything = StructureMasks.ones(sizes_of(model), hidden=True)
    assert float(costs.expected(OpenProbabilities.of(everything))) == float(costs.of(everything)) == costs.total == real


def test_the_constants_of_bert_base():
    """COFI-10"""
    costs, ones = parameter_costs(BERT_BASE), StructureMasks.ones(BERT_BASE)
    assert costs.total == 84_934_656
    for family, worth in (("head", 4 * 64 * 768), ("intermediate", 1536)):
        getattr(ones, family)[3, 5] = 0
        assert costs.total - float(costs.of(ones)) == worth
        getattr(ones, family)[3, 5] = 1
    assert 4 * 64 * 768 == 196_608


@settings(max_examples=40, deadline=None)
@given(sizes=small_sizes, seed=st.integers(0, 99), gated=st.booleans(), hidden=st.booleans(), share=st.floats(0, 1))
def test_costs_of_masks_are_counts_of_sliced_tensors(sizes, seed, gated, hidden, share):
    """COFI-9: weights and non-zeros, exactly, for structures with empty layers among them."""
    masks = random_masks(sizes, seed=seed, hidden=hidden, share=share)
    keep = random_linears(sizes, gated=gated, seed=seed)
    left = [part for layer in range(sizes.layers) for part in sliced(keep[layer], masks, layer, sizes)]
    assert float(parameter_costs(sizes, gated=gated).of(masks)) == sum(part.numel() for part in left)
    nonzero = NonzeroCosts(keep, sizes, hidden=hidden)
    assert float(nonzero.of(masks)) == sum(int(part.sum()) for part in left)
    assert nonzero.total == parameter_costs(sizes, gated=gated).total


@pytest.mark.parametrize("length", [8, 512])
def test_multiply_adds_are_half_the_operations_of_the_dense_encoder(length):
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert"))
    macs = mac_costs(sizes_of(model), length)
    assert 2 * macs.total == length * encoder_flops(shape(model.config), length)


def test_multiply_adds_of_a_structure_without_hidden_dimensions_are_those_of_attention_scores():
    """What does not shrink with the hidden size: two products of [s, h] with [h, s] a head."""
    masks = StructureMasks.ones(SMALL, hidden=True)
    masks.hidden.zero_()
    assert float(mac_costs(SMALL, 16).of(masks)) == SMALL.layers * SMALL.heads * 2 * 16 * 16 * SMALL.head_size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("families", [FAMILIES, ("head", "intermediate"), ("attention", "hidden")], ids="+".join)
def test_the_expected_cost_is_the_mean_over_sampled_structures(kind, families):
    """COFI-7: 2000 structures, within 3.5 standard errors of their mean (one in 2000 would be outside)."""
    costs, gates = every_cost(SMALL)[kind], random_gates(SMALL, families, spread=2.0)
    torch.manual_seed(1)
    sampled = torch.stack([costs.of(gates.sample()) for _ in range(2000)])
    error = sampled.std() / len(sampled) ** 0.5
    expected = float(costs.expected(gates.open_probabilities()).detach())
    assert abs(float(sampled.mean()) - expected) < 3.5 * float(error)
    assert 0.001 * costs.total < float(error) * 2000**0.5, "the structures hardly differ: this shows nothing"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_differences(kind, family):
    """COFI-8: relative 1e-4, for each family with all others gated too; the step suits sums over hidden dimensions in
    float32."""
    costs, gates = every_cost(SMALL)[kind], random_gates(SMALL).double()
    log_alpha = {name: view.detach().double() for name, view in gates.of_families().items()}

    def cost(values):
        return costs.expected(OpenProbabilities(**{name: open_probability(v) for name, v in values.items()}))

    moved = log_alpha[family].requires_grad_()
    cost(log_alpha).backward()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(moved.shape, generator=generator, dtype=torch.float64)
    step = 3e-3 * direction
    slope = (cost({**log_alpha, family: moved + step}) - cost({**log_alpha, family: moved - step})).detach() / 6e-3
    assert float(slope) == pytest.approx(float((moved.grad * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sparsity_is_the_share_that_is_gone(kind):
    costs = every_cost(SMALL)[kind]
    nothing = random_masks(SMALL, share=0.0)
    assert float(costs.sparsity(costs.of(nothing))) == 1.0
    dense = float(costs.sparsity(costs.of(StructureMasks.ones(SMALL))))
    assert dense == 0.0 if kind != "nnz" else 0.6 < dense < 0.8


def test_gates_begin_with_nearly_everything_open():
    """COFI-11: below 1 %, of whatever families (the published start is 11.7 %)."""
    torch.manual_seed(0)
    costs = parameter_costs(BERT_BASE)
    for families in (FAMILIES, ("head", "intermediate", "attention", "ffn"), ("intermediate",)):
        sparsity = costs.sparsity(costs.expected(Gates(BERT_BASE, families).open_probabilities()))
        assert 0 < float(sparsity.detach()) < 0.01


def test_the_published_clamp_keeps_a_head_and_145_dimensions_of_every_layer():
    """COFI-16: without layer gates no structure is sparser than 94.08 %, which is why ours reaches lower."""
    costs = parameter_costs(BERT_BASE)
    gates = Gates(BERT_BASE, ("head", "intermediate"))

    def sparsest(lowest):
        with torch.no_grad():
            gates.log_alpha.fill_(-100.0)
        gates.clamp_(lowest)
        return published_structure(gates, BERT_BASE)

    published = sparsest(-4.605)
    assert published.head.sum(dim=1).tolist() == [1.0] * 12
    assert published.intermediate.sum(dim=1).tolist() == [145.0] * 12
    assert float(costs.sparsity(costs.of(published))) == pytest.approx(0.9408, abs=5e-5)
    with torch.no_grad():
        gates.log_alpha.fill_(-100.0)
    gates.clamp_()
    assert float(costs.of(published_structure(gates, BERT_BASE))) == 0.0


def test_what_masks_are_worth_follows_whether_they_are_zero():
    """Soft masks of units that live cost as whole ones: the weights stay."""
    torch.manual_seed(0)
    costs, log_alpha = parameter_costs(SMALL), torch.zeros(SMALL.layers, SMALL.heads)
    ones = StructureMasks.ones(SMALL)
    soft = hard_concrete(log_alpha, torch.full_like(log_alpha, 0.5))
    assert bool(((soft > 0) & (soft < 1)).all())
    object.__setattr__(ones, "head", soft)
    assert float(costs.of(ones)) == costs.total


def test_what_does_not_fit_is_said():
    keep = random_linears(SMALL)
    with pytest.raises(ValueError, match=r"keep masks of 2 layers, expected 3"):
        NonzeroCosts(keep[:2], SMALL)
    wrong = LayerLinears(keep[1].qkv, keep[1].attention_out.T, keep[1].up, keep[1].down)
    with pytest.raises(ValueError, match=r"layer 1: attention_out is \[32, 20\], expected \[20, 32\]"):
        NonzeroCosts([keep[0], wrong, keep[2]], SMALL)
    with pytest.raises(ValueError, match="hidden=True"):
        NonzeroCosts(keep, SMALL).of(StructureMasks.ones(SMALL, hidden=True))
