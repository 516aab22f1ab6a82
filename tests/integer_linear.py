"""A quantised Linear in integers, what a runtime for int8 computes: the oracle of tests.

    y = (sum_k (q_x - z) q_w) s_x s_w + b        the sum in int32, exactly

(prune-ofa.md section 4.) The published simulation adds up in fp32, where sums of 255 * 128 * 3072 = 1.0e8 are beyond
2^24 and lose bits. Here the product is made in float64, in which every partial sum is a whole number below 2^53 and so
exact in any order, on CPUs and GPUs, which have no int32 matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.downstream.qat.fake_quant import quantise_activation, quantise_weight
from ofa.export.quantization_file import ModuleScales

LONGEST = (2**31 - 1) // (255 * 128)
"""Inputs of a Linear up to which no sum leaves int32."""


@dataclass(frozen=True)
class IntegerResult:
    """Of one Linear."""

    sums: Tensor
    """int32 [..., out]"""
    output: Tensor
    """fp32 [..., out], bias included; before the output's own quantiser, where there is one."""


@torch.no_grad()
def integer_linear(values: Tensor, weight: Tensor, bias: Tensor | None, scales: ModuleScales) -> IntegerResult:
    """A Linear on quantised inputs and weights.

    The output differs from that of the fake-quantised Linear in rounding alone: by at most

        (in + 3) 2^-23 (sum_k |x'_k w'_k| + |b|),

    where x' and w' are the fake-quantised values: the error bound of an fp32 dot product of that length (Higham 2002,
    section 3.1), each of whose factors was rounded once.

    Args:
        values: [..., in], floating.
        weight: [out, in], floating.
        bias: [out] or None.
        scales: of the module.

    Raises:
        ValueError: so many inputs that a sum could leave int32, or the scales of an embedding.
    """
    if scales.input is None:
        raise ValueError("these are the scales of an embedding table, expected those of a Linear")
    if weight.shape[1] > LONGEST:
        raise ValueError(f"a Linear of {weight.shape[1]} inputs: sums of more than {LONGEST} may leave int32")
    left = quantise_activation(values, scales.input.scale, scales.input.zero_point).double() - scales.input.zero_point
    sums = left @ quantise_weight(weight, scales.weight).double().T
    output = sums.float() * (scales.input.scale * scales.weight)
    return IntegerResult(sums.to(torch.int32), output if bias is None else output + bias.float())
