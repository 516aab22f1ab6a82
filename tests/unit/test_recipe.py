"""The clock: learning rate, sparsity and refresh steps as functions of the step."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import PruningConfig, RunConfig, ScheduleConfig, load
from ofa.recipe import Recipe, is_refresh, last_refresh, lr_multiplier, target_sparsity

PUBLISHED = ScheduleConfig.model_validate(
    {"total_steps": 100_000, "warmup_steps": 1000, "rewind": {"start": 0, "end": 50_000, "frequency": 1000}}
)
DOWNSTREAM = ScheduleConfig.model_validate(
    {"total_steps": 59_016, "warmup_steps": 0, "rewind": {"start": 1400, "end": 10_000, "frequency": 100}}
)
GRADUAL = PruningConfig(sparsity=0.9, ramp_end=50_000, end=80_000, frequency=1000)


@pytest.fixture(scope="module")
def published():
    """The shipped recipe for BERT-base at 90 %."""
    return Recipe(load(RunConfig, "ofa_90.json"))


PRUNINGS = st.builds(
    lambda t0, ramp, begin, span, every, s_i, more: PruningConfig(
        sparsity=min(0.99, s_i + more),
        initial_sparsity=s_i,
        ramp_start=t0,
        ramp_end=t0 + ramp,
        begin=begin,
        end=begin + span,
        frequency=every,
    ),
    *(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 80), st.integers(1, 20)),
    *(st.floats(0, 0.5), st.floats(0, 0.5)),
)


@pytest.mark.parametrize(
    ("step", "percent"),
    [(1000, 5.293), (2000, 10.374), (5000, 24.39), (10_000, 43.92), (20_000, 70.56), (25_000, 78.75), (30_000, 84.24)]
    + [(40_000, 89.28), (49_000, 89.99928), (50_000, 90.0), (80_000, 90.0)],
)
def test_the_cubic_ramp_gives_the_published_table(step, percent):
    """OFA-1"""
    assert target_sparsity(GRADUAL, step) == pytest.approx(percent / 100, abs=5e-6)


@given(PRUNINGS)
def test_the_ramp_is_the_cubic_formula_inside_and_clipped_outside(pruning):
    """OFA-1"""
    t0, t1 = pruning.ramp_start, pruning.ramp_end
    for step in {0, t0, t0 + 1, (t0 + t1) // 2, max(t0, t1 - 1), t1, t1 + 1}:
        share = min(max((step - t0) / (t1 - t0), 0.0), 1.0) if t1 > t0 else float(step >= t1)
        expected = pruning.sparsity + (pruning.initial_sparsity - pruning.sparsity) * (1 - share) ** 3
        if step < last_refresh(pruning):
            assert target_sparsity(pruning, step) == pytest.approx(expected, abs=1e-12)
        else:
            assert target_sparsity(pruning, step) == pruning.sparsity


@given(PRUNINGS)
def test_the_ramp_never_falls(pruning):
    """OFA-1"""
    values = [target_sparsity(pruning, step) for step in range(pruning.last_allowed + pruning.ramp_end + 2)]
    assert all(a <= b for a, b in itertools.pairwise(values))


@given(PRUNINGS)
def test_masks_change_on_the_grid_only_and_the_last_refresh_reaches_the_target(pruning):
    """OFA-4"""
    begin, end = pruning.first_allowed, pruning.last_allowed
    refreshes = [step for step in range(end + 50) if is_refresh(pruning, step)]
    assert refreshes == [t for t in range(end + 50) if begin <= t <= end and (t - begin) % pruning.frequency == 0]
    assert last_refresh(pruning) == refreshes[-1]
    assert target_sparsity(pruning, refreshes[-1]) == pruning.sparsity


def test_masks_are_still_refreshed_at_constant_sparsity_after_the_ramp(published):
    """OFA-4"""
    steps = [t for t in range(published.total_steps + 1) if published.at(t).update_mask]
    assert steps == list(range(0, 80_001, 1000))
    assert [t for t in steps if published.at(t).last_update] == [80_000]


@pytest.mark.parametrize(
    ("step", "multiplier"),
    [(0, 0.0), (500, 0.5), (999, 0.999), (1999, 1.0000204), (49_999, 1.0000204), (50_000, 1.0204082)]
    + [(75_000, 0.5102041), (80_000, 0.4081633), (100_000, 0.0)]
    + [(step, 1.0204082) for step in range(1000, 50_000, 1000)],
)
def test_rewinding_holds_the_rate_near_its_peak_while_pruning(step, multiplier):
    """OFA-11"""
    assert lr_multiplier(PUBLISHED, step) == pytest.approx(multiplier, abs=5e-8)


def test_the_cap_keeps_the_rewound_rate_at_its_peak():
    """OFA-11"""
    capped = PUBLISHED.model_copy(update={"rewind": PUBLISHED.rewind.model_copy(update={"cap_at_peak": True})})
    values = [(lr_multiplier(PUBLISHED, t), lr_multiplier(capped, t)) for t in range(0, 100_001, 7)]
    assert max(plain for plain, _ in values) > 1.0
    assert all(cap == min(plain, 1.0) for plain, cap in values)


@pytest.mark.parametrize(
    ("step", "multiplier"),
    [(1399, 0.972251), (1400, 0.972231), (1500, 0.972231), (10_000, 0.972231), (1499, 0.970267), (9999, 0.970267)]
    + [(59_016, 0.0)],
)
def test_rewinding_that_starts_after_the_warmup_continues_the_line(step, multiplier):
    """OFA-12"""
    assert lr_multiplier(DOWNSTREAM, step) == pytest.approx(multiplier, abs=5e-7)


def test_the_rewound_rate_never_jumps_further_than_one_round():
    """OFA-12"""
    values = [lr_multiplier(DOWNSTREAM, step) for step in range(59_017)]
    largest = max(abs(a - b) for a, b in itertools.pairwise(values))
    assert largest <= 100 / (59_016 - 8600) + 1e-12
    assert max(values) <= 1.0


def test_the_rate_is_a_pure_function_of_the_step(published):
    """OFA-13"""
    steps = [73_211, 5, 999, 50_000, 5]
    fresh = Recipe(load(RunConfig, "ofa_90.json"))
    assert [published.at(t) for t in steps] == [fresh.at(t) for t in steps]
    assert published.at(5) == published.at(5)


def test_without_rewinding_the_rate_warms_up_and_decays_linearly():
    schedule = ScheduleConfig(total_steps=100, warmup_steps=10)
    values = [lr_multiplier(schedule, t) for t in range(101)]
    assert values[:11] == [t / 10 for t in range(11)]
    assert values[10:] == pytest.approx([(100 - t) / 90 for t in range(10, 101)])


def test_the_published_recipe_says_the_same_at_every_step(published):
    """OFA-1, OFA-11: the schedule of the paper's code, written out a second time from its description."""
    total, warmup, window = 100_000, 1000, 50_000
    for t in range(total + 1):
        if t < warmup:
            expected = t / warmup
        elif t < window:
            expected = (total - window - (t - t // 1000 * 1000)) / (total - window - warmup)
        else:
            expected = (total - t) / (total - window - warmup)
        knobs = published.at(t)
        assert knobs.lr == pytest.approx(5e-5 * expected, rel=1e-12, abs=1e-18)
        ratio = 1 - min(max((1 - t / window) ** 3 if t < window else 0.0, 0.0), 1.0)
        assert knobs.sparsity == pytest.approx(0.9 * ratio, abs=1e-12)


def test_a_dense_run_has_no_sparsity():
    knobs = Recipe(load(RunConfig, "teacher.json")).at(500)
    assert dataclasses.replace(knobs, lr=0.0) == dataclasses.replace(knobs, lr=0.0, sparsity=0.0, update_mask=False)
