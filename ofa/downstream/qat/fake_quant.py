"""8-bit numbers, exactly as integers have them, in floating point and with gradients.

    weights       q = clamp(round(w / s), -128, 127)      s = largest magnitude / divisor         w' = q s
    activations   q = clamp(round(x / s) + z, 0, 255)     s = (high - low) / 255
                                                          z = round(-low / s)                     x' = (q - z) s

Rounding is half to even and divides, as ONNX's QuantizeLinear does. Gradients pass where q is not clamped and are 0
elsewhere (straight-through; OFA's QAT, prune-ofa.md section 4). torch.fake_quantize_* was left aside: it multiplies by
1 / s, takes no bf16, and on a CPU it costs more than the matrix product that follows it. Scales are fp32 whatever the
dtype of the values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WEIGHT_LEVELS = (-128, 127)
ACTIVATION_LEVELS = (0, 255)
BITS = 8

SMALLEST_SCALE = float(torch.finfo(torch.float32).eps)
"""Of values that are all zero (torch's observers have the same)."""


def weight_scale(largest: Tensor, divisor: float) -> Tensor:
    """Scale of symmetric weights.

    Args:
        largest: magnitudes, of any shape.
        divisor: 127, or 127.5 as published (torch's MinMaxObserver).
    """
    return (largest.float() / divisor).clamp_(min=SMALLEST_SCALE)


def activation_scale(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (fp32, whole numbers from 0 to 255) of ranges, which are widened to include 0."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / ACTIVATION_LEVELS[1]).clamp_(min=SMALLEST_SCALE)
    return scale, (-low / scale).round_().clamp_(*ACTIVATION_LEVELS)


def fake_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights [rows, columns] as int8 would have them, in their own dtype.

    Args:
        weight: live.
        scale: fp32 [] or [rows].
    """
    return _FakeQuantise.apply(weight, _by_row(scale), None, *WEIGHT_LEVELS)


def fake_activation(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Activations of any shape as uint8 would have them, in their own dtype; `scale` and `zero_point` are fp32 []."""
    return _FakeQuantise.apply(values, scale, zero_point, *ACTIVATION_LEVELS)


@torch.no_grad()
def quantise_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 [rows, columns]: 0 where the weight is 0."""
    return (weight.float() / _by_row(scale)).round_().clamp_(*WEIGHT_LEVELS).to(torch.int8)


@torch.no_grad()
def quantise_activation(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """uint8, of any shape."""
    return (values.float() / scale).round_().add_(zero_point).clamp_(*ACTIVATION_LEVELS).to(torch.uint8)


def _by_row(scale: Tensor) -> Tensor:
    return scale[:, None] if scale.dim() else scale


class _FakeQuantise(torch.autograd.Function):
    """Quantised and back; the gradient passes inside."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor | None, lowest: int, highest: int
    ) -> Tensor:
        levels = (values.float() / scale).round_()
        if zero_point is not None:
            levels.add_(zero_point)
        ctx.save_for_backward((levels >= lowest) & (levels <= highest))
        levels.clamp_(lowest, highest)
        if zero_point is not None:
            levels.sub_(zero_point)
        return levels.mul_(scale).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None
