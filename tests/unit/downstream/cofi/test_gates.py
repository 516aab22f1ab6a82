"""Gates: the hard concrete distribution by simulation, masks and their gradients, families in all combinations."""

from itertools import chain, combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.cofi.budget import parameter_costs
from ofa.downstream.cofi.finalise import UnitScores, finalise, reachable
from ofa.downstream.cofi.gates import (
    FAMILIES,
    HIGHEST,
    LOWEST,
    Gates,
    hard_concrete,
    open_probability,
)
from ofa.models.structure import Sizes, StructureMasks
from tests.structures import published_structure

SMALL = Sizes(layers=3, heads=4, head_size=8, intermediate=20, hidden=32)
BERT_BASE = Sizes(layers=12, heads=12, head_size=64, intermediate=3072, hidden=768)
COMBINATIONS = list(chain.from_iterable(combinations(FAMILIES, number) for number in range(1, 6)))


def fields(masks):
    """Families that a structure has, in the order of FAMILIES."""
    return {name: getattr(masks, name) for name in FAMILIES if getattr(masks, name) is not None}


def filled(gates, value):
    """The same gates, all with one log_alpha."""
    with torch.no_grad():
        gates.log_alpha.fill_(value)
    return gates


def draws(log_alpha, count=10**6):
    """Masks of one unit."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    return hard_concrete(torch.full((count,), float(log_alpha)), uniform)


# ---- the distribution ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_alpha", [-4, -2, 0, 2, 4])
def test_a_unit_lives_as_often_as_the_formula_says(log_alpha):
    """COFI-1, by simulation, within 2e-3."""
    alive = (draws(log_alpha) != 0).float().mean()
    assert float(alive) == pytest.approx(float(open_probability(torch.tensor(float(log_alpha)))), abs=2e-3)


@pytest.mark.parametrize(
    "log_alpha, expected", [(-4.605, 0.0471), (-2, 0.4010), (0, 0.8318), (2, 0.9734), (4.605, 0.9980)]
)
def test_probabilities_of_living_are_those_of_the_reference(log_alpha, expected):
    """COFI-1"""
    assert float(open_probability(torch.tensor(float(log_alpha)))) == pytest.approx(expected, abs=6e-5)


def test_a_gate_at_zero_is_as_often_open_as_shut_and_half_open_on_average():
    """COFI-2"""
    masks = draws(0)
    assert float((masks == 1).float().mean()) == pytest.approx(0.1682, abs=3e-3)
    assert float((masks == 0).float().mean()) == pytest.approx(0.1682, abs=3e-3)
    assert float(masks.mean()) == pytest.approx(0.4998, abs=3e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(-30, 30), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_masks_are_in_range_and_have_a_gradient_where_they_are_not_clipped(log_alpha, uniform):
    """COFI-3, at the ends of the uniform numbers too."""
    logits = torch.full((len(uniform),), log_alpha, requires_grad=True)
    masks = hard_concrete(logits, torch.tensor(uniform))
    masks.sum().backward()
    assert ((masks >= 0) & (masks <= 1)).all() and torch.isfinite(logits.grad).all()
    clipped = (masks == 0) | (masks == 1)
    assert not logits.grad[clipped].any() and (logits.grad[~clipped] >= 0).all()
    assert (logits.grad[(masks > 0.01) & (masks < 0.99)] > 0).all()


def test_the_gradient_is_that_of_the_formula():
    """COFI-3: against finite differences in float64."""
    uniform = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = torch.linspace(-3, 3, 200, dtype=torch.float64, requires_grad=True)
    inside = hard_concrete(logits, uniform).detach()
    chosen = (inside > 1e-3) & (inside < 1 - 1e-3)
    assert chosen.sum() > 50
    start = logits.detach()[chosen].requires_grad_()
    assert torch.autograd.gradcheck(lambda values: hard_concrete(values, uniform[chosen]), start)


# ---- sampling ------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_masks():
    """COFI-4"""
    gates = filled(Gates(SMALL, FAMILIES), 0.0)

    def drawn(seed):
        torch.manual_seed(seed)
        return fields(gates.sample())

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in FAMILIES)
    assert not any(torch.equal(first[name], other[name]) for name in ("head", "intermediate", "hidden"))


def test_gates_stay_fp32_in_a_model_that_is_cast_and_an_update_of_a_hundredth_counts():
    """COFI-4: 4.6 + 0.01 is 4.6 in bf16."""
    gates = filled(Gates(SMALL), 4.6)
    around = torch.nn.ModuleDict({"gates": gates, "model": torch.nn.Linear(2, 2)}).bfloat16()
    assert around["model"].weight.dtype == torch.bfloat16 and gates.log_alpha.dtype == torch.float32
    before = gates.log_alpha.detach().clone()
    gates.log_alpha.grad = torch.ones_like(gates.log_alpha)
    torch.optim.SGD(gates.parameters(), lr=0.01).step()
    assert (gates.log_alpha.detach() < before - 0.009).all()
    assert gates.half().log_alpha.dtype == torch.float32 and gates.to("meta").log_alpha.device.type == "meta"


@pytest.mark.parametrize("families", COMBINATIONS, ids="+".join)
def test_any_families_may_have_gates(families):
    """All 31 combinations: what has none lives, what has some dies with the probability that is reported, and all
    masks are canonical."""
    torch.manual_seed(0)
    gates = filled(Gates(SMALL, families), -1.0)
    masks, open_ = gates.sample(), gates.open_probabilities()
    shapes = {name: mask.shape for name, mask in fields(StructureMasks.ones(SMALL, hidden=True)).items()}
    for found in (masks, open_):
        assert (found.hidden is None) == ("hidden" not in families)
        assert {name: one.shape for name, one in fields(found).items()}.items() <= shapes.items()
    for name, probability in fields(open_).items():
        expected = open_probability(torch.tensor(-1.0)) if name in families else torch.tensor(1.0)
        assert torch.equal(probability, expected.expand_as(probability))
    for name, mask in fields(masks.canonical()).items():
        assert torch.equal(mask, fields(masks)[name])
    assert any((mask < 1).any() for mask in fields(masks).values())
    sum(mask.sum() for mask in fields(masks).values()).backward()
    assert gates.log_alpha.grad.count_nonzero() > 0


def test_the_flat_parameter_is_all_families_and_nothing_else():
    """One tensor for one reduction and one optimizer state; views of it show and take updates."""
    gates = Gates(BERT_BASE, FAMILIES)
    assert [p.shape.numel() for p in gates.parameters()] == [37_800]
    assert sum(view.numel() for view in gates.of_families().values()) == 37_800
    with torch.no_grad():
        gates.of_families()["ffn"].fill_(-3.0)
    assert int((gates.log_alpha == -3.0).sum()) == 12
    assert (gates.open_probabilities().ffn < 0.5).all() and (gates.open_probabilities().attention > 0.99).all()


@pytest.mark.parametrize("families", [(), ("heads",), ("head", "layer")])
def test_no_families_and_unknown_ones_are_an_error(families):
    with pytest.raises(ValueError, match="expected one or more of head, intermediate, attention, ffn, hidden"):
        Gates(SMALL, families)


# ---- start, range, masks without chance ----------------------------------------------------------------------


@pytest.mark.parametrize("families", [FAMILIES, FAMILIES[:4], ("head", "intermediate")])
def test_expected_sparsity_starts_below_one_percent(families):
    """COFI-11: BERT-base, counted per weight; the published start gives 11.7 %."""
    open_ = Gates(BERT_BASE, families).open_probabilities()
    heads, dims = open_.head * open_.attention[:, None], open_.intermediate * open_.ffn[:, None]
    hidden = 1.0 if open_.hidden is None else open_.hidden.mean()
    alive = hidden * (4 * 64 * 768 * heads.sum() + 2 * 768 * dims.sum())
    assert 0 < float(1 - alive.detach() / 84_934_656) < 0.01


def test_the_range_lets_a_whole_row_die_and_lets_no_unit_be_certain():
    gates = filled(Gates(BERT_BASE, FAMILIES), -100.0)
    gates.clamp_()
    assert (gates.log_alpha == LOWEST).all()
    assert not any(mask.any() for mask in fields(published_structure(gates, BERT_BASE)).values())
    filled(gates, 100.0).clamp_()
    assert torch.equal(gates.log_alpha, torch.full_like(gates.log_alpha, HIGHEST))
    assert float(open_probability(gates.log_alpha.detach()).max()) < 1.0
    filled(gates, 0.0).clamp_(-1.0, -0.5)
    assert (gates.log_alpha == -0.5).all()


def test_under_the_published_range_145_dimensions_of_a_layer_never_die():
    gates = filled(Gates(BERT_BASE, ("intermediate",)), -4.605)
    assert published_structure(gates, BERT_BASE).intermediate.sum(dim=1).tolist() == [145.0] * 12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(COMBINATIONS), st.floats(-4, 4))
def test_masks_without_chance_are_binary_and_keep_the_likeliest_of_each_row(seed, families, mean):
    """COFI-5: what is made of gates in the end, twice alike; no random number is drawn."""
    torch.manual_seed(seed)
    gates, costs = Gates(SMALL, families, mean=mean, noise=2.0), parameter_costs(SMALL)
    state = torch.get_rng_state()
    target = 0.5 * reachable(costs, families)[1]
    masks, again = (finalise(UnitScores.of(gates.open_probabilities(), families), costs, target) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, mask in fields(masks).items():
        assert torch.equal(mask, fields(again)[name]) and ((mask == 0) | (mask == 1)).all()
    for name in {"head", "intermediate", "hidden"} & set(families):
        rows = (one.reshape(-1, one.shape[-1]) for one in (gates.of_families()[name], fields(masks)[name]))
        for values, alive in zip(*rows, strict=True):
            assert not alive.any() or alive.all() or values[alive > 0].min() >= values[alive == 0].max()


def test_the_mean_mask_over_many_samples_is_that_of_the_distribution():
    """Each family's masks come from its own logits."""
    torch.manual_seed(0)
    gates = filled(Gates(SMALL, ("head", "hidden")), 0.0)
    with torch.no_grad():
        gates.of_families()["hidden"].fill_(2.0)
    with torch.no_grad():
        samples = [gates.sample() for _ in range(2000)]
    assert float(torch.stack([s.head for s in samples]).mean()) == pytest.approx(0.4998, abs=0.01)
    alive = torch.stack([s.hidden != 0 for s in samples]).float().mean()
    assert float(alive) == pytest.approx(0.9734, abs=0.005)
