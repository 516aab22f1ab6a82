"""Booleans at one bit each, on the device they are on: how masks travel between ranks.

The layout is that of `numpy.packbits` (the first in the highest bit), as in checkpoints and exported folders; numpy
itself would take masks of a GPU through the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

GATHER = 0x8040201008040201 - 2**64
"""Multiplying eight bytes of 0 or 1, read as one little-endian integer, by this collects them in its highest byte, the
first byte's bit on top: no two products meet, so nothing is carried."""

SPREAD = (7, 6, 5, 4, 3, 2, 1, 0)


def pack_bits(values: Tensor, length: int) -> Tensor:
    """uint8 [ceil(length / 8)] of bool [n], n <= length; what is missing is 0."""
    padded = torch.zeros(-(-length // 8) * 8, dtype=torch.bool, device=values.device)
    padded[: values.numel()] = values
    return ((padded.view(torch.int64) * GATHER) >> 56).to(torch.uint8)


def unpack_bits(bits: Tensor, length: int) -> Tensor:
    """bool [length] from what `pack_bits` packed."""
    places = torch.tensor(SPREAD, dtype=torch.uint8, device=bits.device)
    values = (bits.unsqueeze(1) >> places).bitwise_and_(1)
    return values.view(-1)[:length].view(torch.bool)
