"""Ranges of activations: the moving average, what counts, and what is kept."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.downstream.qat.observers import CalibrationError, Ranges


def ranges(*names, constant=0.01):
    return Ranges(names or ("a", "b"), constant=constant, device="cpu")


@given(
    st.lists(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=4), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.3, 1.0]),
)
def test_the_average_is_the_published_recursion_over_updates(stream, constant):
    """OFA-34: m <- m + c (m_batch - m), the first batch sets it; micro-batches of an update count as one batch."""
    found, lows, highs = ranges(constant=constant), None, None
    for update in stream:
        for value in update:
            found.observe(0, torch.tensor([[value, value / 2]]), None)
            found.observe(1, torch.tensor([[1.0, -1.0]]), None)
        found.commit()
        low, high = min(min(v, v / 2) for v in update), max(max(v, v / 2) for v in update)
        lows = low if lows is None else lows + constant * (low - lows)
        highs = high if highs is None else highs + constant * (high - highs)
    assert found.values[:, 0].tolist() == pytest.approx([lows, highs], rel=1e-4, abs=1e-4)
    assert found.values[:, 1].tolist() == [-1.0, 1.0]


@given(st.integers(0, 1000), st.integers(1, 8))
def test_neither_order_nor_division_of_a_batch_shows(seed, parts):
    """Bits are equal: extremes of parts are the extremes of the whole."""
    values = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed))
    whole, divided = ranges(), ranges()
    whole.observe(0, values, None)
    for part in reversed(values.chunk(parts)):
        divided.observe(0, part, None)
    whole.commit()
    divided.commit()
    assert torch.equal(whole.values[:, 0], divided.values[:, 0])
    assert torch.equal(whole.scale[0], divided.scale[0]) and torch.equal(whole.zero_point[0], divided.zero_point[0])


def test_padding_does_not_count_and_rows_of_texts_all_do():
    found = ranges()
    values = torch.tensor([[[1.0, 2.0], [99.0, -99.0]], [[-1.0, 0.5], [0.0, 3.0]]])
    real = torch.tensor([[True, False], [True, True]])
    found.observe(0, values, real)
    found.observe(1, values[:, 1], real)
    found.commit()
    assert found.values.tolist() == [[-1.0, -99.0], [3.0, 99.0]]


def test_what_was_seen_in_a_skipped_update_is_forgotten():
    found = ranges()
    found.observe(0, torch.ones(1, 2), None)
    found.commit()
    before = found.values.clone()
    found.observe(0, torch.full((1, 2), 100.0), None)
    found.discard()
    found.commit()
    assert torch.equal(found.values[:, 0], before[:, 0])


def test_values_that_are_not_finite_move_no_range():
    found = ranges()
    found.observe(0, torch.ones(1, 2), None)
    found.commit()
    for value in (math.nan, math.inf):
        found.observe(0, torch.tensor([[value, 5.0]]), None)
        found.commit(1.0)
        assert math.isfinite(float(found.values[1, 0])) and math.isfinite(float(found.scale[0]))


def test_state_comes_back_to_the_bit_and_to_the_same_places_only():
    """OFA-34: resume."""
    found = ranges()
    for _ in range(3):
        found.observe(0, torch.randn(2, 3, 4), None)
        found.observe(1, torch.randn(2, 3, 4), None)
        found.commit()
    found.begin()
    again = ranges()
    again.load_state_dict(found.state_dict())
    for name in ("values", "scale", "zero_point"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert again.calibrated
    with pytest.raises(CalibrationError, match="2 places, this model has 1; first that only one of them has: b"):
        ranges("a").load_state_dict(found.state_dict())
    with pytest.raises(CalibrationError, match="in another order"):
        ranges("b", "a").load_state_dict(found.state_dict())


def test_ranges_that_were_never_measured_are_refused():
    found = ranges()
    with pytest.raises(CalibrationError, match="never measured"):
        found.check()
    found.observe(0, torch.zeros(1, 2), None)
    found.commit()
    with pytest.raises(CalibrationError, match="1 of 2 places, first b"):
        found.begin()
