"""Counting what one tensor holds, exactly: zeros, their signs, and what is not a number.

Takes a tensor as a file holds it, in any floating type; gives integers. `torch.count_nonzero` alone was left aside: it
cannot tell -0.0, which another tool may take for a live weight, from the zero that pruning writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ELEMENT_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class TensorCount:
    """What one tensor on disk holds."""

    shape: tuple[int, ...]
    numel: int
    zeros: int
    """Zeros of either sign."""
    negative_zeros: int
    not_finite: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return self.zeros / self.numel if self.numel else 0.0

    def with_shape(self, shape: Sequence[int]) -> TensorCount:
        """The same of a tensor of another shape, such as its transpose."""
        return replace(self, shape=tuple(shape))


def count(tensor: Tensor) -> TensorCount:
    """Count one tensor; integer tensors have neither negative zeros nor infinities."""
    zero = tensor == 0
    negative = not_finite = 0
    if tensor.is_floating_point():
        negative = int((zero & torch.signbit(tensor)).sum())
        not_finite = tensor.numel() - int(torch.isfinite(tensor).sum())
    return TensorCount(tuple(tensor.shape), tensor.numel(), int(zero.sum()), negative, not_finite)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits; unlike ==, it tells -0.0 from 0.0 and accepts NaN."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = ELEMENT_BITS.get(one.element_size()) if one.is_floating_point() else None
    if bits is None:
        return torch.equal(one, other)
    return torch.equal(one.contiguous().view(bits), other.contiguous().view(bits))
