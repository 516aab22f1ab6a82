"""Which updates are skipped, and how many."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import OptimizerConfig
from ofa.guard import WINDOW, TooManySkips, UpdateGuard


def guard(**settings):
    """A guard with these settings of the optimizer section."""
    return UpdateGuard(OptimizerConfig(lr=1e-3, **settings))


@pytest.mark.parametrize("norm", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_applied(norm):
    assert not guard().accepts(norm) and not guard(spike_ratio=2.0).accepts(norm)


def test_without_a_ratio_norms_need_not_be_looked_at():
    assert not guard().looks_at_norms and guard(spike_ratio=2.0).looks_at_norms
    one = guard()
    assert all(one.accepts(norm) for norm in [1.0] * WINDOW + [1e30])


@given(st.lists(st.floats(0.5, 2.0), min_size=WINDOW, max_size=2 * WINDOW), st.floats(1.01, 10.0))
def test_a_spike_is_above_a_multiple_of_the_median_of_the_last_applied_ones(norms, ratio):
    one = guard(spike_ratio=ratio)
    applied = [norm for norm in norms if one.accepts(norm)]
    assert applied[:WINDOW] == norms[:WINDOW], "what is usual is not known before"
    recent = sorted(applied[-WINDOW:])
    middle = (recent[WINDOW // 2 - 1] + recent[WINDOW // 2]) / 2
    assert not one.accepts(ratio * middle * 1.0001)
    assert one.accepts(ratio * middle * 0.9999)


def test_a_spike_does_not_change_what_is_usual():
    one = guard(spike_ratio=2.0)
    assert all(one.accepts(1.0) for _ in range(WINDOW))
    assert not any(one.accepts(100.0) for _ in range(3 * WINDOW))
    assert one.accepts(1.9)


def test_skips_in_a_row_end_the_run_and_an_applied_update_begins_a_new_row():
    one = guard(max_skipped=2)
    for _ in range(3):
        one.skipped(5, 5, math.inf)
        one.skipped(5, 6, math.inf)
        one.applied()
    one.skipped(6, 12, math.inf)
    one.skipped(6, 13, 7.5)
    with pytest.raises(TooManySkips, match="3 updates in a row were skipped at step 6, .* norm of inf.*max_skipped"):
        one.skipped(6, 14, math.inf)
    assert one.total == 9


def test_none_in_a_row_can_be_asked_for():
    with pytest.raises(TooManySkips, match="1 updates in a row"):
        guard(max_skipped=0).skipped(0, 0, math.nan)


@given(st.lists(st.floats(0.1, 10.0), max_size=3 * WINDOW), st.lists(st.floats(0.1, 10.0), max_size=WINDOW))
def test_a_continued_guard_judges_as_the_one_before(before, after):
    one, other = guard(spike_ratio=1.5), guard(spike_ratio=1.5)
    for norm in before:
        one.accepts(norm)
    other.load_state_dict(one.state_dict())
    assert [one.accepts(norm) for norm in after] == [other.accepts(norm) for norm in after]
