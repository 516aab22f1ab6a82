"""When forwards are in 8 bits and when ranges move, without an engine."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ofa.config import QuantizationConfig
from ofa.downstream.qat.assemble import quantised
from ofa.downstream.qat.pruner import QatPruner, QatSchedule
from ofa.pruning.pruner import NoPruner
from ofa.recipe import Knobs
from tests.task_parts import small_model


def knobs(step):
    return Knobs(step, lr=1.0, sparsity=0.0, update_mask=False, last_update=False)


@given(st.integers(1, 500), st.integers(0, 499), st.floats(0, 1))
@example(total=8, begin=7, share=0.5)
def test_ranges_move_from_begin_until_the_last_share_of_the_steps_in_8_bits(total, begin, share):
    """OFA-34: both count optimizer steps; one step in 8 bits is none that is frozen."""
    if begin >= total:
        with pytest.raises(ValueError, match=f"begin_step is {begin} and the run has {total} steps"):
            QatSchedule.of(begin, share, total)
        return
    found = QatSchedule.of(begin, share, total)
    assert found.begin == begin <= found.freeze <= total
    frozen, in_8_bits = total - found.freeze, total - begin
    assert share * in_8_bits - 1 < frozen <= share * in_8_bits and (found.freeze > begin or share == 1)


def pruner_of(schedule, calls):
    quantisers = quantised(small_model("bert"), QuantizationConfig(), "cpu")

    def calibrate():
        calls.append("calibrated")
        for place in range(len(quantisers.ranges.names)):
            quantisers.ranges.observe(place, torch.tensor([[-1.0, 2.0]]), None)
        quantisers.ranges.commit()
        quantisers.ranges.begin()

    return QatPruner(NoPruner(), quantisers, schedule, calibrate), quantisers


def test_a_run_is_float_then_learns_ranges_then_keeps_them():
    calls = []
    pruner, quantisers = pruner_of(QatSchedule(2, 4), calls)
    found = []
    for step in range(6):
        pruner.before_step(knobs(step))
        found.append((quantisers.quantising, quantisers.learning))
        quantisers.ranges.observe(0, torch.tensor([[-9.0, 9.0]]), None)
        before = quantisers.ranges.values.clone()
        pruner.after_step(knobs(step + 1))
        moved = not torch.equal(before.nan_to_num(), quantisers.ranges.values.nan_to_num())
        assert moved == (step in (2, 3))
        quantisers.ranges.discard()
    assert found == [(False, False)] * 2 + [(True, True)] * 2 + [(True, False)] * 2
    assert calls == ["calibrated"]


def test_a_run_that_goes_on_is_not_calibrated_again_and_other_runs_are_refused():
    calls = []
    pruner, quantisers = pruner_of(QatSchedule(0, 4), calls)
    pruner.before_step(knobs(0))
    again, theirs = pruner_of(QatSchedule(0, 4), calls)
    again.load_state_dict(pruner.state_dict(), knobs(1))
    again.before_step(knobs(1))
    assert calls == ["calibrated"] and torch.equal(theirs.ranges.scale, quantisers.ranges.scale)
    with pytest.raises(ValueError, match="holds no ranges"):
        again.load_state_dict({}, knobs(1))
