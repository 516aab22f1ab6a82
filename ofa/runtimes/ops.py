"""Two ops between floats and whole numbers, which torch computes and exporters know by name.

`quantise_dequantise` is ONNX's QuantizeLinear followed by DequantizeLinear on uint8, `dequantise` is DequantizeLinear
on int8 weights. As plain torch arithmetic a runtime would not know them again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ofa.downstream.qat.fake_quant import fake_activation


@torch.library.custom_op("ofa::quantise_dequantise", mutates_args=())
def quantise_dequantise(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Activations as uint8 has them, fp32, of any shape.

    Args:
        values: fp32.
        scale: fp32 [].
        zero_point: uint8 [].
    """
    return fake_activation(values, scale, zero_point.float())


@quantise_dequantise.register_fake
def _(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("ofa::dequantise", mutates_args=())
def dequantise(integers: Tensor, scale: Tensor) -> Tensor:
    """fp32 [in, out] of int8 weights; `scale` is fp32 [] or [out]."""
    return integers * scale


@dequantise.register_fake
def _(integers: Tensor, scale: Tensor) -> Tensor:
    return torch.empty(integers.shape, dtype=torch.float32, device=integers.device)
