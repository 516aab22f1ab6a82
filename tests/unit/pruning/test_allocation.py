"""Groups of tensors from the pruning section, its overrides and the scope."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import PruningConfig
from ofa.pruning.allocation import AllocationError, erk_sparsities, ranking_groups
from ofa.pruning.pattern import PatternError

LINEARS = {"query": (8, 8), "value": (8, 8), "intermediate": (32, 8), "output": (8, 32)}
SHAPES = {f"layer.{i}.{name}.weight": torch.Size(shape) for i in range(3) for name, shape in LINEARS.items()}
SHAPES["pooler.weight"] = torch.Size((8, 8))


def pruning(**keys):
    """A pruning section."""
    return PruningConfig(**{"sparsity": 0.9, "ramp_end": 10, "frequency": 1, **keys})


def groups_of(**keys):
    """Its groups on the scope above."""
    return ranking_groups(pruning(**keys), SHAPES)


def test_uniform_ranks_each_tensor_by_itself_in_model_order():
    groups = groups_of(initial_sparsity=0.2)
    assert [group.names for group in groups] == [(name,) for name in SHAPES]
    assert {(group.initial, group.final, group.pattern.text) for group in groups} == {(0.2, 0.9, "unstructured")}


def test_global_ranks_all_tensors_together():
    (group,) = groups_of(allocation="global", pattern="4x1")
    assert group.names == tuple(SHAPES) and group.pattern.text == "4x1"
    assert group.units(SHAPES) == sum(shape.numel() for shape in SHAPES.values()) // 4
    assert group.zeros(SHAPES, 0.9) == 4 * int(0.9 * group.units(SHAPES))


def test_the_first_override_that_matches_holds_and_the_rest_follow_the_section():
    overrides = [
        {"match": r"layer\.0\.", "sparsity": 0.0},
        {"match": "query|value", "sparsity": 0.5, "pattern": "2:4", "allocation": "global"},
        {"match": "layer", "sparsity": 0.8},
    ]
    groups = groups_of(initial_sparsity=0.3, pattern="1x4", overrides=overrides)
    together = tuple(f"layer.{i}.{name}.weight" for i in (1, 2) for name in ("query", "value"))
    of = {name: group for group in groups for name in group.names}
    assert of.keys() == SHAPES.keys() and len(groups) == 4 + 1 + 4 + 1
    assert [group.names[0] for group in groups] == sorted((g.names[0] for g in groups), key=list(SHAPES).index)
    first, mixed, other = of["layer.0.query.weight"], of[together[0]], of["layer.2.output.weight"]
    pooler = of["pooler.weight"]
    assert (first.initial, first.final, first.pattern.text) == (0.0, 0.0, "1x4")
    assert (mixed.names, mixed.initial, mixed.final, mixed.pattern.text) == (together, 0.3, 0.5, "2:4")
    assert (other.initial, other.final, other.pattern.text) == (0.3, 0.8, "1x4")
    assert (pooler.initial, pooler.final) == (0.3, 0.9)


def test_an_override_that_matches_no_tensor_names_those_it_could_match():
    with pytest.raises(AllocationError, match=r"overrides\[0\] \(match 'atention'\).*layer\.0\.query\.weight") as error:
        groups_of(overrides=[{"match": "atention", "sparsity": 0.5}])
    assert "pooler.weight" in str(error.value)


def test_an_override_whose_tensors_all_follow_an_earlier_one_is_refused():
    overrides = [{"match": "layer", "sparsity": 0.5}, {"match": r"layer\.1", "sparsity": 0.6}]
    with pytest.raises(AllocationError, match=r"overrides\[1\].*follows an earlier override \(number 0\)"):
        groups_of(overrides=overrides)


def test_overrides_may_hold_for_every_tensor():
    groups = groups_of(allocation="global", overrides=[{"match": ".", "sparsity": 0.5}])
    assert len(groups) == len(SHAPES) and {group.final for group in groups} == {0.5}


def test_a_tensor_that_its_pattern_does_not_divide_is_refused():
    """OFA-7"""
    with pytest.raises(PatternError, match=r"layer\.0\.query\.weight of shape \[8, 8\].*3x1"):
        groups_of(pattern="3x1")


def test_decimals_that_mean_n_of_m_reach_it_exactly():
    (group, *_) = ranking_groups(pruning(pattern="1:3", sparsity=0.6666667), {"w": torch.Size((2, 9))})
    assert group.final == group.sparsity(0.0) == 2 / 3 and group.zeros({"w": torch.Size((2, 9))}, group.final) == 12


def test_the_ramp_ends_exactly_at_the_target_and_begins_at_the_initial_sparsity():
    (group, *_) = groups_of(initial_sparsity=0.1)
    assert group.sparsity(0.0) == 0.9 and math.isclose(group.sparsity(1.0), 0.1)
    ramp = [group.sparsity(1 - step / 50) for step in range(51)]
    assert ramp == sorted(ramp)


scopes = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.tuples(st.integers(1, 300), st.integers(1, 300)).map(torch.Size),
    min_size=1,
    max_size=8,
)


@given(scopes, st.floats(0, 0.999))
def test_erk_spends_the_whole_density_and_no_tensor_more_than_its_own(shapes, sparsity):
    found = erk_sparsities(shapes, sparsity)
    total = sum(shape.numel() for shape in shapes.values())
    assert all(0 <= share < 1 for share in found.values())
    spent = sum(found[n] * s.numel() for n, s in shapes.items())
    assert math.isclose(spent, sparsity * total, rel_tol=1e-9, abs_tol=1e-6)


@given(scopes, st.floats(0.01, 0.999))
def test_erk_densities_are_as_rows_plus_columns_over_rows_times_columns(shapes, sparsity):
    """Evci et al. 2020, section 3."""
    found = erk_sparsities(shapes, sparsity)
    eps = [(1 - found[n]) * s.numel() / sum(s) for n, s in shapes.items() if found[n] > 0]
    assert max(eps, default=1.0) <= min(eps, default=1.0) * (1 + 1e-6)
    full = [s.numel() / sum(s) for n, s in shapes.items() if found[n] == 0]
    assert not eps or all(need <= eps[0] * (1 + 1e-6) for need in full), "only what would exceed 1 is dense"


@given(st.floats(0, 0.8), st.floats(0.8, 0.99), st.floats(0, 1))
def test_erk_keeps_the_total_right_along_the_ramp(initial, final, remaining):
    groups = groups_of(allocation="erk", initial_sparsity=initial, sparsity=final)
    total = sum(shape.numel() for shape in SHAPES.values())
    wanted = (final + (initial - final) * remaining) * total
    assert abs(sum(group.sparsity(remaining) * group.units(SHAPES) for group in groups) - wanted) < 1e-6 * total
    dropped = sum(group.zeros(SHAPES, group.sparsity(remaining)) for group in groups)
    assert wanted - len(groups) - 1e-3 <= dropped <= wanted + 1e-3
    assert all(group.initial <= group.final + 1e-12 for group in groups)


def test_erk_keeps_small_tensors_denser():
    of = {group.names[0]: group.final for group in groups_of(allocation="erk")}
    assert of["layer.0.query.weight"] < of["layer.0.intermediate.weight"] == of["layer.0.output.weight"]
