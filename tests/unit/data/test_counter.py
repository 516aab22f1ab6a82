"""Random numbers by counter: one to one, uniform, and the same for ever."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ofa.data import counter


def test_mix_equals_the_published_splitmix64():
    """First outputs of SplitMix64 seeded with 1234567, as its reference implementation prints them."""
    state = np.array([1234567], dtype=np.uint64)
    outputs = counter.bits(state, np.arange(1, 4)).tolist()
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, 2**63), st.integers(0, 300))
def test_permutation_holds_every_index_once(seed, size):
    order = counter.permutation(counter.key(seed, "x"), size)
    assert sorted(order.tolist()) == list(range(size))


def test_keys_differ_by_seed_and_by_every_part_of_the_purpose():
    keys = {int(counter.key(*parts)[0]) for parts in ((1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a"))}
    assert len(keys) == 5


def test_fractions_and_below_are_uniform():
    drawn = counter.bits(counter.key(0, "x"), np.arange(100_000))
    for counts in (np.bincount(counter.below(drawn, 10)), np.histogram(counter.fractions(drawn), 10, (0, 1))[0]):
        assert len(counts) == 10 and abs(counts - 10_000).max() < 5 * np.sqrt(10_000 * 0.9)


def test_fractions_never_reach_one():
    highest = np.array([2**64 - 1], dtype=np.uint64)
    assert counter.fractions(highest)[0] < 1.0
