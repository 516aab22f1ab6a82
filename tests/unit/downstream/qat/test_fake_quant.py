"""8-bit numbers in floating point, against whole numbers in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import QuantizationConfig
from ofa.downstream.qat.fake_quant import (
    SMALLEST_SCALE,
    activation_scale,
    fake_activation,
    fake_weight,
    quantise_activation,
    quantise_weight,
)
from ofa.downstream.qat.prepare import Site, Sites
from ofa.downstream.qat.weights import MeasuredScales

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def drawn(*shape, seed, spread=1.0, zeros=0.0):
    """Normal values of which a share is 0, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    values = spread * torch.randn(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) >= zeros)


def measured(weight, **settings):
    """(scale as the config says, for a Linear of this weight)"""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    sites = Sites((Site("one", linear, "one", False),), {})
    return MeasuredScales(QuantizationConfig(**settings), sites, "cpu").of("one", weight, observing=False)


rules = st.sampled_from(["per_tensor", "per_channel"]), st.sampled_from([127.0, 127.5])


@given(sizes, sizes, seeds, st.floats(0, 1), *rules)
def test_weights_are_symmetric_around_an_exact_zero(rows, columns, seed, zeros, weights, divisor):
    """OFA-33: s = max|W| / divisor, by tensor or by row; q = round half to even, clamped to int8; 0 stays 0 and nothing
    that is not small becomes 0; the fake weight is q s, to the bit."""
    weight = drawn(rows, columns, seed=seed, zeros=zeros)
    scale = measured(weight, weights=weights, weight_divisor=divisor)
    largest = weight.abs().amax(dim=1) if weights == "per_channel" else weight.abs().amax()
    assert torch.equal(scale, (largest / np.float32(divisor)).clamp(min=SMALLEST_SCALE))
    integers = quantise_weight(weight, scale)
    by_row = scale[:, None] if weights == "per_channel" else scale
    expected = np.clip(np.rint(weight.numpy() / by_row.numpy()), -128, 127)
    assert integers.dtype == torch.int8 and np.array_equal(integers.numpy(), expected)
    fake = fake_weight(weight, scale)
    assert torch.equal(fake, integers.float() * by_row)
    assert not fake[weight == 0].any() and not integers[weight == 0].any()
    assert ((integers != 0) | (weight.abs() <= 0.51 * by_row)).all()


def test_the_published_divisor_clips_the_largest_positive_weight_and_not_the_negative_one():
    """OFA-33: s = max(-min, max) / 127.5: +127.5 s is beyond 127, -127.5 s is not beyond -128."""
    for sign, integer in ((1.0, 127), (-1.0, -128)):
        weight = torch.tensor([[sign * 2.55, 0.5, -0.5]])
        scale = measured(weight, preset="published")
        assert float(scale) == pytest.approx(0.02) and int(quantise_weight(weight, scale)[0, 0]) == integer


@given(seeds, st.floats(-8, 8), st.floats(0.01, 4))
def test_activations_are_asymmetric_and_hold_zero(seed, shift, spread):
    """q = round(x / s) + z in 0 ... 255 over a range widened to include 0, which is exact; inside the range an error of
    half a step at most, besides that of the whole zero point."""
    values = drawn(5, 7, seed=seed, spread=spread) + shift
    scale, zero_point = activation_scale(values.min(), values.max())
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    assert float(scale) == pytest.approx((high - low) / 255, rel=1e-6)
    assert float(zero_point) == int(zero_point) and 0 <= zero_point <= 255
    integers = quantise_activation(values, scale, zero_point)
    assert integers.dtype == torch.uint8
    fake = fake_activation(values, scale, zero_point)
    assert torch.equal(fake, (integers.float() - zero_point) * scale)
    assert float(fake_activation(torch.zeros(()), scale, zero_point)) == 0.0
    assert float((fake - values).abs().max()) <= 1.01 * float(scale)


@given(seeds)
def test_values_and_gradients_are_those_of_torchs_own_fake_quantisation(seed):
    """Where s is a power of two, dividing by s and multiplying by 1 / s are the same: equal to the bit, gradients 0
    outside the clamp range (STE)."""
    values = drawn(6, 5, seed=seed, spread=3.0)
    gradient = drawn(6, 5, seed=seed + 1)
    scale, zero_point = torch.tensor(2.0**-6), torch.tensor(100.0)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    found = fake_activation(ours, scale, zero_point)
    expected = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point.int(), 0, 255)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(found, expected) and torch.equal(ours.grad, theirs.grad)
    rows = torch.tensor([2.0**-n for n in range(4, 10)])
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    found = fake_weight(ours, rows)
    expected = torch.fake_quantize_per_channel_affine(theirs, rows, torch.zeros(6, dtype=torch.int32), 0, -128, 127)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(found, expected) and torch.equal(ours.grad, theirs.grad)
    assert (ours.grad == 0).any() or float(values.abs().max()) < 2.0**-9 * 127


def test_bf16_values_are_quantised_in_fp32_and_come_back_as_bf16():
    values = drawn(40, 30, seed=0).bfloat16()
    scale, zero_point = activation_scale(values.min().float(), values.max().float())
    found = fake_activation(values, scale, zero_point)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, fake_activation(values.float(), scale, zero_point).bfloat16())


def test_a_range_that_never_shrinks_is_the_widest_that_was_seen_in_training():
    """The published MinMaxObserver; looking on, as evaluation does, widens nothing."""
    linear = torch.nn.Linear(3, 2)
    sites = Sites((Site("one", linear, "one", False),), {})
    scales = MeasuredScales(QuantizationConfig(preset="published"), sites, "cpu")
    wide, small = torch.full((2, 3), 2.55), torch.full((2, 3), 0.1)
    assert float(scales.of("one", wide, observing=False)) == pytest.approx(0.02)
    assert float(scales.of("one", small, observing=True)) == pytest.approx(0.1 / 127.5)
    assert float(scales.of("one", wide, observing=True)) == pytest.approx(0.02)
    assert float(scales.of("one", small, observing=True)) == pytest.approx(0.02)
    again = MeasuredScales(QuantizationConfig(preset="published"), sites, "cpu")
    again.load_state_dict(scales.state_dict())
    assert float(again.of("one", small, observing=False)) == pytest.approx(0.02)
    current = MeasuredScales(QuantizationConfig(), sites, "cpu")
    current.of("one", wide, observing=True)
    assert current.of("one", small, observing=True).tolist() == pytest.approx([0.1 / 127] * 2)
