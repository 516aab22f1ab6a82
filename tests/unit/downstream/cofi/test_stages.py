"""The clock of a CoFi run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import CofiConfig, CofiMlmConfig
from ofa.downstream.cofi.stages import CompactClock, GatedClock, Stages

ROWS, SIZE = 96, 8


def config(**sections):
    """A checked config over some defaults."""
    values = {
        "model": {"init": "x"},
        "task": {"name": "rte", "path": "y"},
        "batch": {"global_size": SIZE, "micro_size": SIZE},
        "optimizer": {"lr": 1e-3},
        "schedule": {"epochs": 5.0, "warmup_share": 0.25},
        "structure": {"sparsity": 0.9, "begin_epochs": 1.0, "ramp_epochs": 2.0},
        "finetune": {"epochs": 3.0, "lr": 1e-4},
    }
    merged = {key: {**values.get(key, {}), **sections.get(key, {})} for key in {*values, *sections}}
    return CofiConfig.model_validate(merged)


def steps_of(epochs):
    """Of ROWS rows in batches of SIZE."""
    return math.ceil(epochs * ROWS / SIZE)


def test_stages_follow_one_another():
    assert Stages.of(config(), steps_of) == Stages(begin=12, ramp_end=36, pruned=60, total=96)
    assert Stages.of(config(schedule={"epochs": None, "total_steps": 40}), steps_of).pruned == 40
    assert Stages.of(config(finetune={"epochs": 0}), steps_of).total == 60


def test_a_target_that_would_not_be_held_is_refused():
    with pytest.raises(ValueError, match="come to 36 steps, and schedule gives all of pruning 36"):
        Stages.of(config(schedule={"epochs": None, "total_steps": 36}), steps_of)


def of_a_corpus(**sections):
    """A checked config of a corpus, some of whose sections have other values."""
    values = {
        "model": {"architecture": {"model_type": "x"}},
        "data": {"path": "y", "sequence_length": 8},
        "batch": {"global_size": SIZE, "micro_size": SIZE},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 60, "warmup_steps": 3},
        "structure": {"sparsity": 0.9, "begin_steps": 12, "ramp_steps": 24},
        "finetune": {"steps": 36, "lr": 1e-4},
    }
    merged = {key: {**values[key], **sections.get(key, {})} for key in values}
    return CofiMlmConfig.model_validate(merged)


def test_a_corpus_counts_in_steps_and_runs_by_the_same_clock():
    assert Stages.of_steps(of_a_corpus()) == Stages.of(config(), steps_of)
    stages = Stages.of_steps(of_a_corpus())
    clocks = [(GatedClock(one, stages, 0.0), CompactClock(one, stages)) for one in (config(), of_a_corpus())]
    for step in range(stages.pruned):
        assert clocks[0][0].at(step) == clocks[1][0].at(step)
    for step in range(stages.pruned, stages.total + 1):
        assert clocks[0][1].at(step) == clocks[1][1].at(step)
    with pytest.raises(ValueError, match="begin_steps and ramp_steps come to 36 steps, .*raise schedule.total_steps"):
        of_a_corpus(schedule={"total_steps": 36})


@given(st.integers(0, 20), st.integers(0, 40), st.integers(1, 40), st.floats(0, 0.5), st.floats(0.5, 0.99))
def test_the_target_rises_in_a_line(begin, ramp, rest, dense, final):
    """COFI-12: t(0) = 0 (of a sparse base its own sparsity), half way up in the middle, the target from W on."""
    stages = Stages(begin, begin + ramp, begin + ramp + rest, begin + ramp + rest)
    targets = [stages.target(dense, final, step) for step in range(stages.total)]
    assert targets == sorted(targets)
    assert all(target == dense for target in targets[: begin + (ramp > 0)])
    assert all(target == final for target in targets[begin + ramp :])
    if ramp and ramp % 2 == 0:
        assert stages.target(dense, final, begin + ramp // 2) == pytest.approx((dense + final) / 2)


def test_the_rate_falls_to_0_twice_and_is_constant_in_the_end():
    """As published: linear to 0, its clock set back where pruning begins; constant for the small model."""
    stages = Stages.of(config(), steps_of)
    gated, compact = GatedClock(config(), stages, 0.0), CompactClock(config(), stages)
    rates = [gated.at(step).lr for step in range(stages.pruned + 1)]
    assert rates[:4] == pytest.approx([0.0, 1e-3 / 3, 2e-3 / 3, 1e-3]), "a quarter of stage one warms up"
    assert rates[11] == pytest.approx(1e-3 * (60 - 11) / 57)
    assert rates[12] == 1e-3 and rates[36] == pytest.approx(5e-4) and rates[60] == 0.0
    assert {compact.at(step).lr for step in range(stages.pruned, stages.total)} == {1e-4}
    linear = CompactClock(config(finetune={"decay": "linear", "warmup_share": 0.1}), stages)
    assert linear.at(60).lr == 0.0 and linear.at(64).lr == 1e-4 and linear.at(80).lr == pytest.approx(1e-4 * 16 / 32)
    assert [clock.at(60).step for clock in (gated, compact)] == [60, 60]
    assert gated.at(24).sparsity == pytest.approx(0.45) and compact.at(60).sparsity == 0.9
