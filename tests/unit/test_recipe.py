"""The clock: learning rate, sparsity and refresh steps as functions of the step."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import PruningConfig, RunConfig, ScheduleConfig, load
from ofa.plan import print_schedule
from ofa.recipe import Recipe, is_refresh, lr_multiplier, ramp_remaining, target_sparsity

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


EITHER_RAMP = PRUNINGS | PRUNINGS.map(lambda pruning: pruning.model_copy(update={"ramp": "geometric"}))


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
        if step < pruning.last_refresh:
            assert target_sparsity(pruning, step) == pytest.approx(expected, abs=1e-12)
        else:
            assert target_sparsity(pruning, step) == pruning.sparsity


@given(EITHER_RAMP)
def test_the_ramp_never_falls(pruning):
    """OFA-1"""
    values = [target_sparsity(pruning, step) for step in range(pruning.last_allowed + pruning.ramp_end + 2)]
    assert all(a <= b for a, b in itertools.pairwise(values))


@given(EITHER_RAMP)
def test_masks_change_on_the_grid_only_and_the_last_refresh_reaches_the_target(pruning):
    """OFA-4"""
    begin, end = pruning.first_allowed, pruning.last_allowed
    refreshes = [step for step in range(end + 50) if is_refresh(pruning, step)]
    assert refreshes == [t for t in range(end + 50) if begin <= t <= end and (t - begin) % pruning.frequency == 0]
    assert pruning.last_refresh == refreshes[-1]
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


@given(EITHER_RAMP)
def test_what_remains_of_the_ramp_gives_any_tensor_its_own_target(pruning):
    """OFA-1: remaining falls from 1 to exactly 0, and the section's own sparsity is the same line drawn with it."""
    steps = range(max(pruning.last_allowed, pruning.ramp_end) + 2)
    values = [ramp_remaining(pruning, step) for step in steps]
    over = min(pruning.ramp_end, pruning.last_refresh)
    assert all(0.0 <= b <= a <= 1.0 for a, b in itertools.pairwise(values))
    assert set(values[over:]) == {0.0}
    assert set(values[: min(pruning.ramp_start, over)]) <= {1.0}
    for step, remaining in zip(steps, values, strict=True):
        line = pruning.sparsity + (pruning.initial_sparsity - pruning.sparsity) * remaining
        assert target_sparsity(pruning, step) == line


@given(PRUNINGS.map(lambda pruning: pruning.model_copy(update={"ramp": "geometric"})))
def test_the_geometric_ramp_takes_the_same_share_of_what_is_left_at_every_refresh(pruning):
    """Written out a second time: a product over the refreshes inside the ramp, in steps of one."""
    inside = [
        t
        for t in range(pruning.last_allowed + 1)
        if is_refresh(pruning, t) and pruning.ramp_start <= t <= pruning.ramp_end
    ]
    share = ((1 - pruning.sparsity) / (1 - pruning.initial_sparsity)) ** (1 / max(1, len(inside)))
    density = 1 - pruning.initial_sparsity
    for step in range(max(pruning.last_allowed, pruning.ramp_end) + 2):
        density *= share if step in inside else 1.0
        if step >= min(pruning.last_refresh, pruning.ramp_end):
            assert target_sparsity(pruning, step) == pruning.sparsity
        else:
            assert target_sparsity(pruning, step) == pytest.approx(1 - density, abs=1e-12)


def test_iterative_pruning_leaves_four_fifths_in_every_round():
    """Renda et al. 2020: 20 % of what is left, round after round; 0.8^10 is the density after ten."""
    pruning = PruningConfig(sparsity=1 - 0.8**10, ramp="geometric", ramp_start=100, ramp_end=1000, frequency=100)
    rounds = [target_sparsity(pruning, step) for step in range(100, 1001, 100)]
    assert rounds == pytest.approx([1 - 0.8**number for number in range(1, 11)], abs=1e-12)
    assert target_sparsity(pruning, 99) == 0.0 and target_sparsity(pruning, 199) == rounds[0]


@pytest.mark.parametrize("ramp", ["cubic", "geometric"])
def test_one_shot_pruning_is_a_ramp_of_one_step(ramp):
    pruning = PruningConfig(sparsity=0.9, ramp=ramp, ramp_start=50, ramp_end=50, frequency=7)
    assert [t for t in range(200) if is_refresh(pruning, t)] == [50]
    assert {target_sparsity(pruning, t) for t in range(50)} == {0.0}
    assert {target_sparsity(pruning, t) for t in range(50, 200)} == {0.9}


def run_config(schedule, pruning):
    """A run with nothing else in it."""
    return RunConfig.model_validate(
        {
            "model": {"architecture": {"model_type": "bert"}},
            "data": {"path": "x", "sequence_length": 64},
            "batch": {"global_size": 8, "micro_size": 8},
            "optimizer": {"lr": 3e-4},
            "schedule": schedule,
            "pruning": pruning,
        }
    )


def in_rounds(policy, *, warmup, decaying, skipped, rounds):
    """Train for warmup + decaying steps, then replay all but the first `skipped` of them, `rounds` times."""
    start = warmup + decaying
    every = start - skipped
    end = start + rounds * every
    return run_config(
        {
            "total_steps": end,
            "warmup_steps": warmup,
            "rewind": {"policy": policy, "start": start, "end": end, "frequency": every},
        },
        {
            "sparsity": 0.9,
            "ramp": "geometric",
            "ramp_start": start,
            "ramp_end": end - every,
            "frequency": every,
            "regrow": False,
        },
    )


@st.composite
def rounds_of(draw):
    """Arguments of `in_rounds`."""
    warmup, decaying = draw(st.integers(0, 20)), draw(st.integers(1, 60))
    return {
        "warmup": warmup,
        "decaying": decaying,
        "skipped": draw(st.integers(0, warmup + decaying - 1)),
        "rounds": draw(st.integers(1, 8)),
    }


@given(rounds_of(), st.sampled_from(["learning_rate", "weights"]))
def test_rewinding_in_rounds_replays_the_end_of_a_finished_schedule(sizes, policy):
    """OFA-14: Renda's rate, written out a second time as a list that is cut and repeated."""
    warmup, decaying = sizes["warmup"], sizes["decaying"]
    whole = [u / warmup for u in range(warmup)] + [1 - u / decaying for u in range(decaying)]
    expected = whole + whole[sizes["skipped"] :] * sizes["rounds"] + [0.0]
    recipe = Recipe(in_rounds(policy, **sizes))
    assert recipe.total_steps == len(expected) - 1
    rates = [recipe.at(t).lr for t in range(recipe.total_steps + 1)]
    assert rates == pytest.approx([3e-4 * value for value in expected], rel=1e-12, abs=1e-18)


def test_rendas_policy_is_not_the_one_of_prune_once_for_all():
    """OFA-14: over the same window one decays to 0 in every round, the other stays near the peak until its end."""
    window = {"start": 100, "end": 1000, "frequency": 90}
    renda, ofa = (
        ScheduleConfig.model_validate({"total_steps": 1000, "warmup_steps": 10, "rewind": {"policy": policy, **window}})
        for policy in ("learning_rate", "prune_ofa")
    )
    by_hand = [t / 10 if t < 10 else 1 - (t - 10) / 90 for t in range(100)]
    by_hand += [1 - (t - 100) % 90 / 90 for t in range(100, 1000)]
    assert [lr_multiplier(renda, t) for t in range(1000)] == pytest.approx(by_hand, abs=1e-12)
    last_of_rounds = [t for t in range(100, 1000) if (t + 1 - 100) % 90 == 0]
    assert all(lr_multiplier(renda, t) == pytest.approx(1 / 90) for t in last_of_rounds)
    assert lr_multiplier(renda, 190) == 1.0, "a round begins at the peak, not where the decay stood"

    short = window | {"start": 0, "end": 500}
    held = [
        lr_multiplier(ScheduleConfig.model_validate({"total_steps": 1000, "warmup_steps": 10, "rewind": short}), t)
        for t in range(10, 500)
    ]
    assert min(held) > 0.8 and max(held) > 1.0
    with pytest.raises(ValueError, match="leaves no step after the warm-up"):
        ScheduleConfig.model_validate({"total_steps": 1000, "warmup_steps": 100, "rewind": window})
    assert [lr_multiplier(ofa, t) for t in range(10, 1000)] != pytest.approx(by_hand[10:], abs=1e-3)


@given(rounds_of(), st.sampled_from(["learning_rate", "weights"]))
def test_every_round_begins_with_a_pruning_and_its_rate_is_that_of_the_step_it_goes_back_to(sizes, policy):
    """OFA-13, OFA-14: number of rounds, their first rates, and weights that go back in one policy only."""
    config = in_rounds(policy, **sizes)
    recipe, rewind = Recipe(config), config.schedule.rewind
    refreshes = [t for t in range(recipe.total_steps + 1) if recipe.at(t).update_mask]
    assert len(refreshes) == sizes["rounds"] and refreshes[0] == rewind.start
    for t in refreshes:
        back = rewind.start - rewind.frequency
        assert recipe.at(t).lr == recipe.at(back).lr
        assert recipe.at(t).rewind_to == (back if policy == "weights" else None)
    assert recipe.at(refreshes[-1]).sparsity == 0.9 and recipe.at(refreshes[-1]).last_update
    others = set(range(recipe.total_steps + 1)) - set(refreshes)
    assert all(recipe.at(t).rewind_to is None for t in others)
    again = Recipe(in_rounds(policy, **sizes))
    assert [again.at(t) for t in reversed(refreshes)] == [recipe.at(t) for t in reversed(refreshes)]


def test_one_shot_pruning_with_rewinding_is_one_round():
    """OFA-14"""
    recipe = Recipe(in_rounds("weights", warmup=5, decaying=45, skipped=0, rounds=1))
    marked = [knobs for knobs in map(recipe.at, range(101)) if knobs.update_mask]
    assert [(knobs.step, knobs.sparsity, knobs.rewind_to) for knobs in marked] == [(50, 0.9, 0)]


@pytest.mark.parametrize(
    ("name", "refreshes", "back"),
    [("tiny/imp_90.json", range(100, 1000, 90), None), ("tiny/weight_rewind_90.json", range(100, 1000, 100), 0)],
)
def test_the_shipped_recipes_in_rounds_prune_a_fifth_of_the_rest_and_start_at_the_peak_again(name, refreshes, back):
    config = load(RunConfig, name)
    recipe = Recipe(config)
    marked = [knobs for knobs in map(recipe.at, range(recipe.total_steps + 1)) if knobs.update_mask]
    assert [knobs.step for knobs in marked] == list(refreshes)
    assert {knobs.rewind_to for knobs in marked} == {back}
    densities = [1.0, *(1 - knobs.sparsity for knobs in marked)]
    assert all(0.19 < 1 - after / before < 0.24 for before, after in itertools.pairwise(densities))
    assert densities[-1] == pytest.approx(0.1)
    rates = [recipe.at(t).lr for t in range(recipe.total_steps)]
    assert [max(rates[a:b]) for a, b in itertools.pairwise([*refreshes, 1000])] == [config.optimizer.lr] * len(marked)


ROUNDS = {"total_steps": 50, "rewind": {"policy": "weights", "start": 20, "end": 50, "frequency": 10}}
GRID = {"sparsity": 0.5, "ramp_start": 20, "ramp_end": 40, "frequency": 10, "regrow": False}


@pytest.mark.parametrize(
    ("pruning", "words"),
    [
        (None, "weights puts old values.*nothing is pruned: add pruning"),
        ({**GRID, "regrow": True}, "set pruning.regrow to false"),
        ({**GRID, "begin": 10}, "pruning must have begin 20, found 10"),
        ({**GRID, "frequency": 5}, "frequency 10, found 5"),
        ({**GRID, "end": 50}, "last refresh 40, found 50"),
        ({**GRID, "ramp_end": 39}, "last refresh 40, found 30"),
    ],
)
def test_pruning_that_does_not_meet_the_rounds_is_refused_with_both_numbers(pruning, words):
    assert run_config(ROUNDS, GRID).schedule.rewind_target == 10
    with pytest.raises(ValueError, match=words):
        run_config(ROUNDS, pruning)


@pytest.mark.parametrize(
    ("rewind", "words"),
    [
        ({"end": 45}, "whole rounds to the end of the run"),
        ({"frequency": 7}, "start \\+ n \\* frequency = 20 \\+ n \\* 7"),
        ({"start": 5, "end": 50, "frequency": 45}, "which must be at least as many"),
        ({"policy": "half"}, "policy"),
    ],
)
def test_rounds_that_do_not_fit_the_run_are_refused(rewind, words):
    values = {**ROUNDS, "rewind": {**ROUNDS["rewind"], **rewind}}
    with pytest.raises(ValueError, match=words):
        ScheduleConfig.model_validate(values)


def test_the_plan_says_where_the_weights_go_back_to(capsys):
    config = run_config(ROUNDS, GRID)
    print_schedule(config)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["step"]: line["rewind_to"] for line in lines if "rewind_to" in line} == {20: 10, 30: 10, 40: 10}
    assert [line["step"] for line in lines if line["refresh"]] == [20, 30, 40]


def test_a_dense_run_has_no_sparsity():
    knobs = Recipe(load(RunConfig, "teacher.json")).at(500)
    assert dataclasses.replace(knobs, lr=0.0) == dataclasses.replace(knobs, lr=0.0, sparsity=0.0, update_mask=False)
