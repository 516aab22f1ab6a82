"""A Linear in integers, against Python's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.downstream.qat.fake_quant import (
    activation_scale,
    fake_activation,
    fake_weight,
    quantise_activation,
    quantise_weight,
    weight_scale,
)
from ofa.export.quantization_file import ActivationScale, ModuleScales
from tests.integer_linear import LONGEST, integer_linear


def scales_of(values, weight, per_row):
    largest = weight.abs().amax(dim=1) if per_row else weight.abs().amax()
    scale, zero_point = activation_scale(values.min(), values.max())
    return ModuleScales(weight_scale(largest, 127.0), ActivationScale(scale, zero_point), None)


def oracle(values, weight, scales):
    """int64 sums of numpy, which has no floats on the way."""
    left = quantise_activation(values, scales.input.scale, scales.input.zero_point).numpy().astype("int64")
    right = quantise_weight(weight, scales.weight).numpy().astype("int64")
    return torch.from_numpy((left - int(scales.input.zero_point)) @ right.T)


def fake(values, weight, bias, scales):
    """(float64 result of the fake-quantised Linear, fp32 result, sum of magnitudes)"""
    left = fake_activation(values, scales.input.scale, scales.input.zero_point)
    right = fake_weight(weight, scales.weight)
    exact = left.double() @ right.double().T + bias
    sums = left.double().abs() @ right.double().abs().T + bias.abs()
    return exact, torch.nn.functional.linear(left, right, bias), sums


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_sums_are_exact_and_the_output_is_within_the_bound(inputs, outputs, seed, per_row):
    """OFA-35: int32 sums equal those of whole numbers; the fp32 output lies within (in + 3) 2^-23 sum |x' w'| + |b| of
    the fake-quantised Linear."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(2, 5, inputs, generator=generator) + 1
    weight, bias = (torch.randn(shape, generator=generator) for shape in ((outputs, inputs), (outputs,)))
    scales = scales_of(values, weight, per_row)
    found = integer_linear(values, weight, bias, scales)
    assert found.sums.dtype == torch.int32
    assert torch.equal(found.sums.long(), oracle(values, weight, scales))
    exact, rounded, sums = fake(values, weight, bias, scales)
    bound = (inputs + 3) * 2.0**-23 * sums
    assert ((found.output.double() - exact).abs() <= bound).all()
    assert ((found.output - rounded).abs() <= 2 * bound).all()


def test_sums_beyond_2_to_the_24_lose_nothing():
    """OFA-35: 3072 inputs of 255 and 127 and one of 1: odd sums above 2^24, which fp32 cannot hold."""
    values, weight = torch.full((1, 3073), 255.0), torch.full((2, 3073), 127.0)
    values[0, -1], weight[1] = 1.0, -127.0
    scales = ModuleScales(torch.tensor(1.0), ActivationScale(torch.tensor(1.0), torch.tensor(0.0)), None)
    found = integer_linear(values, weight, None, scales)
    total = 3072 * 255 * 127 + 127
    assert found.sums.tolist() == [[total, -total]] and total > 2**24 and int(torch.tensor(float(total))) != total


def test_what_could_leave_int32_is_refused():
    one = ActivationScale(torch.tensor(1.0), torch.tensor(0.0))
    with pytest.raises(ValueError, match="may leave int32"):
        ones = torch.ones(1, LONGEST + 1)
        integer_linear(ones, ones, None, ModuleScales(torch.ones(()), one, None))
    with pytest.raises(ValueError, match="embedding table"):
        integer_linear(torch.ones(1, 2), torch.ones(1, 2), None, ModuleScales(torch.ones(()), None, None))
