"""Best-fit packing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from data_prep.pack import pack

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=80), st.just(capacity))
)


@given(lengths_and_capacity)
def test_every_segment_stands_in_exactly_one_row_that_holds_it(case):
    lengths, capacity = case
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[index] for index in row) <= capacity for row in rows)


@given(lengths_and_capacity)
def test_no_two_rows_could_be_one(case):
    lengths, capacity = case
    filled = sorted(sum(lengths[index] for index in row) for row in pack(lengths, capacity))
    assert len(filled) < 2 or filled[0] + filled[1] > capacity


@given(lengths_and_capacity)
def test_at_most_eleven_ninths_of_the_rows_that_are_needed(case):
    """Best-fit decreasing: rows <= 11/9 * optimum + 2/3; total / capacity is a bound of the optimum from below."""
    lengths, capacity = case
    if max(lengths, default=0) * 3 <= capacity:
        assert len(pack(lengths, capacity)) <= 11 / 9 * -(-sum(lengths) // capacity) + 1


def test_pad_fraction_is_below_a_hundredth_on_spread_lengths():
    """PERF-14: pad fraction of processed tokens at most 1 %, where one segment a row would leave more than half."""
    draw = random.Random(0)
    lengths = [min(512, max(5, int(draw.lognormvariate(5, 0.8)))) for _ in range(5000)]
    assert sum(lengths) / (len(lengths) * 512) < 0.5
    assert sum(lengths) / (len(pack(lengths, 512)) * 512) >= 0.99
