"""Hard structures of an exact budget."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.cofi.budget import NonzeroCosts, mac_costs, parameter_costs
from ofa.downstream.cofi.finalise import BudgetError, UnitScores, check_target, finalise, reachable
from ofa.downstream.cofi.gates import FAMILIES
from ofa.downstream.cofi.units import LayerLinears
from ofa.models.structure import Sizes, StructureMasks
from tests.structures import BERT_BASE, random_gates, small_sizes, some_families

UNITS = ("head", "intermediate", "attention", "ffn")


def random_scores(sizes, families=UNITS, *, seed=0, levels=None):
    """Normal ones; with `levels` only so many different ones, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: mask.shape for name, mask in vars(StructureMasks.ones(sizes, hidden=True)).items()}
    drawn = {name: 3 * torch.randn(shapes[name], generator=generator) for name in families}
    if levels is not None:
        drawn = {name: (values * levels / 6).round() for name, values in drawn.items()}
    return UnitScores(**drawn)


def sparsity(costs, masks):
    """Of a structure."""
    return float(costs.sparsity(costs.of(masks)))


@pytest.mark.parametrize("multiple", [1, 8, 64])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.6, 0.9, 0.95, 0.99, 1.0])
def test_the_target_is_met_within_one_unit(target, multiple):
    """COFI-15, at the size of BERT-base: never below, and above by less than a group of dimensions, the least unit."""
    costs = parameter_costs(BERT_BASE)
    masks = finalise(random_scores(BERT_BASE), costs, target, multiple=multiple)
    assert 0 <= sparsity(costs, masks) - target < 1536 * multiple / costs.total < 0.0012


@settings(max_examples=60, deadline=None)
@given(
    sizes=small_sizes,
    seed=st.integers(0, 999),
    place=st.floats(0, 1),
    multiple=st.sampled_from([1, 2, 8]),
    levels=st.sampled_from([None, 1, 3]),
    families=some_families,
)
def test_structures_are_hard_canonical_deterministic_and_within_the_budget(
    sizes, seed, place, multiple, levels, families
):
    """For all combinations of families, and with equal scores: what is not pruned stays whole."""
    costs, scores = mac_costs(sizes, 8), random_scores(sizes, families, seed=seed, levels=levels)
    lowest, highest = reachable(costs, families)
    target = lowest + place * (highest - lowest)
    masks = finalise(scores, costs, target, multiple=multiple)
    assert sparsity(costs, masks) >= target - 1e-9
    again = finalise(random_scores(sizes, families, seed=seed, levels=levels), costs, target, multiple=multiple)
    for name, mask in vars(masks).items():
        if mask is not None:
            assert bool(((mask == 0) | (mask == 1)).all()) and mask.dtype == torch.float32
            assert torch.equal(mask, getattr(again, name)) and torch.equal(mask, getattr(masks.canonical(), name))
    assert (masks.hidden is None) == ("hidden" not in families)
    assert bool((masks.intermediate.sum(dim=1) % multiple == 0).all())
    living = masks.attention > 0
    if "head" not in families:
        assert bool((masks.head[living] == 1).all())
    if "intermediate" not in families:
        assert bool((masks.intermediate[masks.ffn > 0] == 1).all())
    if masks.hidden is not None:
        assert bool(masks.hidden.any())


@settings(max_examples=40, deadline=None)
@given(sizes=small_sizes, seed=st.integers(0, 999), target=st.floats(0.05, 0.95))
def test_one_threshold_over_all_layers_divides_living_and_dead_units_of_a_family(sizes, seed, target):
    """Without rounding to multiples: where sublayers live no dead unit is worth more than a living one of its family,
    and none of them fits; heads and dimensions have one threshold but for dimensions in the place of a head that is too
    large for it."""
    costs, scores = parameter_costs(sizes), random_scores(sizes, ("head", "intermediate"), seed=seed)
    masks = finalise(scores, costs, target)
    worst = {}
    for name, sublayer in (("head", "attention"), ("intermediate", "ffn")):
        own, lives = getattr(scores, name), getattr(masks, name) > 0
        dead = ~lives & (getattr(masks, sublayer) > 0)[:, None]
        worst[name] = float(own[lives].min()) if bool(lives.any()) else float("inf")
        if bool(dead.any()):
            assert float(own[dead].max()) <= worst[name]
            best = (own == own[dead].max()).nonzero()[0].tolist()
            back = replace(masks, **{name: getattr(masks, name).clone()})
            getattr(back, name)[tuple(best)] = 1
            assert sparsity(costs, back) < target + 1e-9
    heads, dims = (getattr(scores, name)[getattr(masks, name) == 0] for name in ("head", "intermediate"))
    if len(dims):
        assert float(dims.max()) <= worst["head"] or not bool((masks.ffn > 0).all())
    assert len(heads) + len(dims) > 0, "a target above 0 takes something"


@pytest.mark.parametrize("hidden", [False, True])
def test_units_of_which_a_sparse_base_has_kept_nothing_are_the_first_to_die(hidden):
    """cofi.md 5.8: they are free to drop, and no pull on what costs nothing has ever closed their gates."""
    sizes = Sizes(layers=2, heads=4, head_size=16, intermediate=256, hidden=64)
    draw = torch.Generator().manual_seed(0)

    def kept(*shape):
        return torch.rand(*shape, generator=draw) < 0.1

    layers = [LayerLinears(kept(192, 64), kept(64, 64), kept(256, 64), kept(64, 256)) for _ in range(2)]
    for one in layers:
        one.up[:100], one.down[:, :100] = False, False
    costs = NonzeroCosts(layers, sizes, hidden=hidden)
    scores = random_scores(sizes, ("head", "intermediate"))
    scores.intermediate[:, :100] = 9.0
    masks = finalise(scores, costs, 0.93, multiple=4)
    assert int(masks.intermediate[:, :100].sum()) == 0 and int(masks.intermediate.sum()) > 200
    assert 0.93 <= sparsity(costs, masks) < 0.94


def test_dimensions_come_back_into_the_room_that_a_head_leaves():
    """A head is 32 weights and a dimension 8: 40 are to go, the head is the last to die after two dimensions, and the
    better of the two has room again."""
    sizes = Sizes(layers=2, heads=2, head_size=2, intermediate=4, hidden=4)
    head = torch.tensor([[0.0, 5.0], [5.0, 5.0]])
    intermediate = torch.tensor([[-2.0, -1.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    costs = parameter_costs(sizes)
    masks = finalise(UnitScores(head=head, intermediate=intermediate), costs, 40 / costs.total)
    assert masks.head.tolist() == [[0, 1], [1, 1]] and masks.intermediate.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert sparsity(costs, masks) == pytest.approx(40 / costs.total, abs=1e-12)


@pytest.mark.parametrize("multiple", [8, 16, 64])
def test_layers_keep_their_best_dimensions_in_whole_multiples(multiple):
    scores = random_scores(BERT_BASE, seed=3)
    masks = finalise(scores, parameter_costs(BERT_BASE), 0.8, multiple=multiple)
    for row, kept in zip(scores.intermediate, masks.intermediate, strict=True):
        number = int(kept.sum())
        assert number % multiple == 0
        assert torch.equal(kept > 0, torch.isin(torch.arange(len(row)), row.topk(number).indices))
    assert 0 < float(masks.intermediate.mean()) < 1


def test_equal_scores_die_from_the_first():
    """By layer, attention before feed-forward, then index."""
    sizes = Sizes(layers=2, heads=2, head_size=2, intermediate=4, hidden=4)  # a head 32 weights, a dimension 8
    scores = UnitScores(head=torch.zeros(2, 2), intermediate=torch.zeros(2, 4))
    masks = finalise(scores, parameter_costs(sizes), (2 * 32 + 2 * 8) / (4 * 32 + 8 * 8))
    assert masks.head.tolist() == [[0, 0], [1, 1]] and masks.attention.tolist() == [0, 1]
    assert masks.intermediate.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def closed(**places):
    """Scores of BERT-base in which these sublayers are closed."""
    scores = random_scores(BERT_BASE)
    values = {name: torch.full((12,), 2.0) for name in ("attention", "ffn")}
    for name, layers in places.items():
        values[name][layers] = torch.linspace(-3, -1, len(layers))
    return replace(scores, **values)


def test_a_sublayer_dies_with_its_gate():
    masks = finalise(closed(attention=[2, 5], ffn=[0]), parameter_costs(BERT_BASE), 0.6)
    assert masks.attention.tolist() == [float(layer not in (2, 5)) for layer in range(12)]
    assert masks.ffn.tolist() == [float(layer != 0) for layer in range(12)]


def test_closed_sublayers_come_back_from_the_best_where_they_are_needed():
    """All of the feed-forward networks are closed, which is two thirds of the weights, and a third is to go: as many
    stay closed as fit, and units of the one on the border make the rest up."""
    costs = parameter_costs(BERT_BASE)
    masks = finalise(closed(ffn=list(range(12))), costs, 0.34)
    assert 0 <= sparsity(costs, masks) - 0.34 < 0.003
    assert masks.ffn.tolist() == [0.0] * 6 + [1.0] * 6, "worst first: scores rise with the layer"


def test_closed_sublayers_that_meet_the_target_exactly_all_stay_closed():
    """And not a unit dies with them."""
    costs = parameter_costs(BERT_BASE)
    masks = finalise(closed(attention=[1, 2, 3], ffn=[4, 5, 6]), costs, 0.25)
    assert sparsity(costs, masks) == 0.25
    assert [int(m.sum()) for m in (masks.attention, masks.ffn, masks.head)] == [9, 9, 108]


def test_open_sublayers_die_where_units_do_not_suffice():
    """Only dimensions and sublayers are pruned, and more has to go than all dimensions: attentions follow, worst
    first, and dimensions make up the rest."""
    costs = parameter_costs(BERT_BASE)
    scores = replace(closed(), head=None)
    masks = finalise(scores, costs, 0.9)
    assert 0 <= sparsity(costs, masks) - 0.9 < 1536 / costs.total
    assert bool((masks.head[masks.attention > 0] == 1).all()) and 0 < int(masks.attention.sum()) < 12


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_gates_are_the_order_of_log_alpha(seed):
    """And 0 is where a gate is as often open as closed."""
    gates = random_gates(BERT_BASE, seed=seed)
    gates.clamp_()
    scores = UnitScores.of(gates.open_probabilities(), gates.families)
    assert scores.families == FAMILIES
    for name, log_alpha in gates.of_families().items():
        torch.testing.assert_close(getattr(scores, name), log_alpha.detach().double() + 1.59860, rtol=1e-3, atol=2e-3)


def test_families_without_gates_have_no_scores():
    gates = random_gates(BERT_BASE, ("head", "ffn"))
    assert UnitScores.of(gates.open_probabilities(), gates.families).families == ("head", "ffn")


@pytest.mark.parametrize(
    "families, highest", [(UNITS, 1.0), (("head",), 1 / 3), (("ffn", "intermediate"), 2 / 3), (("hidden",), 767 / 768)]
)
def test_a_target_out_of_reach_is_refused_with_the_range(families, highest):
    costs = parameter_costs(BERT_BASE)
    assert reachable(costs, families) == pytest.approx((0.0, highest))
    check_target(costs, families, highest)
    for target in (-0.01, highest + 0.001):
        with pytest.raises(BudgetError, match=f"out of reach: pruning .* gives 0.0000 to {highest:.4f}"):
            finalise(random_scores(BERT_BASE, families), costs, target)


def test_scores_that_cannot_be_ranked_are_refused():
    costs, scores = parameter_costs(BERT_BASE), random_scores(BERT_BASE)
    scores.head[0, 0] = float("nan")
    with pytest.raises(BudgetError, match="1 scores of head are not finite"):
        finalise(scores, costs, 0.5)
    with pytest.raises(BudgetError, match=r"scores of head are \[12, 3\], expected \[12, 12\]"):
        finalise(replace(scores, head=torch.zeros(12, 3)), costs, 0.5)
    with pytest.raises(BudgetError, match="3072 intermediate dimensions cannot be kept in multiples of 100; .* 96"):
        finalise(random_scores(BERT_BASE), costs, 0.5, multiple=100)
