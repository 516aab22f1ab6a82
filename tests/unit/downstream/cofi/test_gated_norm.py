"""The norm under masks against `F.layer_norm` of what lives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ofa.downstream.cofi.gated_norm import GatedLayerNorm, NormMasks


def stock_norm(size, *, bias=True, seed=0):
    """A norm with weights of its own."""
    torch.manual_seed(seed)
    norm = nn.LayerNorm(size, eps=1e-12, bias=bias)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    if bias:
        nn.init.normal_(norm.bias, 0.0, 0.3)
    return norm


def masked_norm(size, *, hidden=None, sublayer=None, **options):
    """The same under masks."""
    norm = stock_norm(size, **options)
    GatedLayerNorm.convert(norm, NormMasks(hidden, None if sublayer is None else torch.tensor(sublayer)))
    return norm


def off(size, dead):
    """Hidden masks, the first `dead` of a random order 0, the others in [0.3, 1]."""
    mask = 0.3 + 0.7 * torch.rand(size)
    mask[torch.randperm(size)[:dead]] = 0.0
    return mask


def of_the_kept(norm, values, mask):
    """The oracle: what dies is cut out, torch norms the rest, and it is put back."""
    kept = mask.nonzero()[:, 0]
    bias = None if norm.bias is None else norm.bias[kept]
    rest = functional.layer_norm(values[..., kept], (len(kept),), norm.weight[kept], bias, norm.eps)
    return torch.zeros_like(values).index_copy(-1, kept, rest * mask[kept])


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(3, 40), st.booleans(), st.integers(0, 10**6))
def test_it_equals_layer_norm_of_the_dimensions_that_live(data, size, bias, seed):
    """COFI-21, for masks between 0 and 1 too; gradients of input, weights and masks, in float64."""
    dead = data.draw(st.integers(0, size - 2))
    norm = masked_norm(size, bias=bias, seed=seed).double()
    values = torch.randn(2, 3, size, dtype=torch.float64, requires_grad=True)
    mask = off(size, dead).double().requires_grad_()
    norm.masks.hidden = mask
    found, expected = norm(values), of_the_kept(norm, values, mask)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights, direction = [values, mask, *norm.parameters()], torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(one, weights, direction) for one in (found, expected))
    alive = mask != 0  # of a dead dimension's mask the oracle, which has cut it out, knows nothing
    for name, a, b in zip(("input", "mask", "weight", "bias"), ours, theirs, strict=False):
        a, b = (a[alive], b[alive]) if name == "mask" else (a, b)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)


def test_it_is_not_layer_norm_of_zeros_in_768_dimensions():
    """COFI-21: with 4 dimensions off, in fp32."""
    torch.manual_seed(0)
    mask = torch.ones(768)
    mask[[3, 100, 500, 767]] = 0.0
    norm, values = masked_norm(768, hidden=mask), torch.randn(64, 768) * mask
    found = norm(values)
    torch.testing.assert_close(found, of_the_kept(norm, values, mask), rtol=0, atol=2e-6)
    padded = functional.layer_norm(values, (768,), norm.weight, norm.bias, norm.eps) * mask
    assert float((found - padded).detach().abs().max()) > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 50), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_without_masks_it_is_the_stock_norm_to_the_bit(size, bias, dtype):
    """COFI-19"""
    values = torch.randn(4, size).to(dtype)
    stock, masked = stock_norm(size, bias=bias).to(dtype), masked_norm(size, bias=bias).to(dtype)
    assert torch.equal(masked(values), stock(values))
    masked.masks.sublayer = torch.tensor(0.25)
    assert torch.equal(masked(values), stock(values))


def test_a_dead_sublayer_gives_its_input_to_the_bit_and_its_whole_gradient():
    """COFI-22"""
    values = torch.randn(5, 16, requires_grad=True)
    for hidden in (None, torch.ones(16)):
        norm = masked_norm(16, hidden=hidden, sublayer=0.0)
        found = norm(values)
        assert torch.equal(found, values)
        gradients = torch.autograd.grad(found.sum(), [values, *norm.parameters()])
        assert torch.equal(gradients[0], torch.ones_like(values))
        assert not any(gradient.any() for gradient in gradients[1:])


def test_when_no_dimension_lives_all_is_zero_and_nothing_is_nan():
    values = torch.randn(3, 8, requires_grad=True)
    norm = masked_norm(8, hidden=torch.zeros(8, requires_grad=True))
    found = norm(values)
    found.sum().backward()
    assert not found.any()
    assert all(torch.isfinite(t.grad).all() for t in (values, norm.masks.hidden, norm.weight, norm.bias))


def test_statistics_of_bf16_activations_are_computed_in_fp32():
    """As torch does: within one step of bf16 of the fp32 result, where sums in bf16 would be far off."""
    torch.manual_seed(0)
    norm, values = masked_norm(768, hidden=torch.ones(768)).bfloat16(), (torch.randn(64, 768) * 2 + 10).bfloat16()
    found = norm(values)
    assert found.dtype == torch.bfloat16
    exact = functional.layer_norm(values.float(), (768,), norm.weight.float(), norm.bias.float(), norm.eps)
    torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=1e-3)


def test_a_norm_is_converted_in_its_place_and_restored():
    norm = stock_norm(8)
    weight, keys = norm.weight, list(norm.state_dict())
    calls = []
    norm.register_forward_hook(lambda *_: calls.append(1))
    GatedLayerNorm.convert(norm, NormMasks(torch.zeros(8)))
    assert not norm(torch.randn(2, 8)).any() and calls == [1]
    assert norm.weight is weight and list(norm.state_dict()) == keys
    norm.restore()
    assert type(norm) is nn.LayerNorm and not hasattr(norm, "masks") and norm(torch.randn(2, 8)).any()


def test_only_stock_norms_are_converted():
    for norm, name in ((masked_norm(8), "GatedLayerNorm"), (nn.RMSNorm(8), "RMSNorm")):
        with pytest.raises(ValueError, match=f"expected a torch.nn.LayerNorm to be masked, found {name}"):
            GatedLayerNorm.convert(norm, NormMasks())
