"""ofa/timing.py: turns, ratios and tails, by numbers that are known."""

import pytest
from scipy import stats

from ofa.timing import interleaved, median_interval, percentiles, ratios, timed


def test_every_work_has_one_turn_a_round_and_each_is_first_once():
    order = []
    found = interleaved({name: lambda n, name=name: order.append(name) or float(n) for name in "abc"}, 3)
    assert found == {name: [0.0, 1.0, 2.0] for name in "abc"} and order == list("abcbcacab")


def test_ratios_are_of_rates_in_the_same_round():
    assert ratios([2.0, 8.0, 3.0], [1.0, 4.0, 1.0]) == {"median": 2.0, "p10": 2.0, "p90": 3.0}


@pytest.mark.parametrize(("rounds", "first", "last"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (31, 10, 22)])
def test_the_median_lies_between_ranks_of_the_sign_test(rounds, first, last):
    """By tables (Conover 1999, A3), 95 %."""
    ratio = [float((7 * number) % rounds + 1) if rounds % 7 else float(number + 1) for number in range(rounds)]
    assert median_interval(ratio, [1.0] * rounds) == (first, last)


@pytest.mark.parametrize("rounds", range(1, 40))
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_interval_has_its_confidence_and_no_narrower_one_has(rounds, confidence):
    """By the binomial distribution; of fewer rounds than that takes there is none."""
    found = median_interval([float(number) for number in range(rounds)], [1.0] * rounds, confidence)
    held = [1 - 2 * stats.binom.cdf(rank, rounds, 0.5) >= confidence for rank in range((rounds + 1) // 2)]
    rank = sum(held) - 1
    assert found == ((rank, rounds - 1 - rank) if any(held) else None)
    assert (found is None) == (rounds < {0.5: 2, 0.9: 5, 0.95: 6, 0.99: 8}[confidence])


def test_the_tail_of_the_times_is_that_of_the_slowest():
    """COFI-40: p90, and p95 as the tables have it."""
    found = percentiles([number / 1000 for number in range(100, -1, -1)])
    assert found == pytest.approx({"p50": 50, "p90": 90, "p95": 95})


def test_what_is_timed_is_called_once():
    calls = []
    assert timed(lambda: calls.append(None)) > 0 and len(calls) == 1
