"""ofa/timing.py: turns, ratios and tails, by numbers that are known."""

import pytest

from ofa.timing import interleaved, median_interval, percentiles, ratios, timed


def test_every_work_has_one_turn_a_round_and_each_is_first_once():
    order = []
    found = interleaved({name: lambda n, name=name: order.append(name) or float(n) for name in "abc"}, 3)
    assert found == {name: [0.0, 1.0, 2.0] for name in "abc"} and order == list("abcbcacab")


def test_ratios_are_of_rates_in_the_same_round():
    assert ratios([2.0, 8.0, 3.0], [1.0, 4.0, 1.0]) == {"median": 2.0, "p10": 2.0, "p90": 3.0}


@pytest.mark.parametrize(("rounds", "first", "last"), [(2, 1, 2), (5, 1, 5), (6, 1, 6), (9, 2, 8), (31, 10, 22)])
def test_the_median_lies_between_ranks_of_the_sign_test(rounds, first, last):
    """By tables (Conover 1999, A3), 95 %; of so few rounds that nothing is sure, between all of them."""
    ratio = [float((7 * number) % rounds + 1) if rounds % 7 else float(number + 1) for number in range(rounds)]
    assert median_interval(ratio, [1.0] * rounds) == (first, last)


def test_the_tail_of_the_times_is_that_of_the_slowest():
    """COFI-40: p90, and p95 as the tables have it."""
    found = percentiles([number / 1000 for number in range(100, -1, -1)])
    assert found == pytest.approx({"p50": 50, "p90": 90, "p95": 95})


def test_what_is_timed_is_called_once():
    calls = []
    assert timed(lambda: calls.append(None)) > 0 and len(calls) == 1
