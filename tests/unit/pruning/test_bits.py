"""Bits as numpy packs them, without numpy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.pruning.bits import pack_bits, unpack_bits


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 20))
def test_bits_are_those_of_numpy_and_come_back(values, more):
    flat = torch.tensor(values, dtype=torch.bool)
    packed = pack_bits(flat, len(values) + more)
    assert packed.dtype == torch.uint8
    padded = np.array(values + [False] * more, dtype=bool)
    assert packed.tolist() == np.packbits(padded).tolist()
    assert unpack_bits(packed, len(values)).tolist() == values


def test_every_byte_is_packed_right():
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)).astype(bool)
    assert pack_bits(torch.from_numpy(bits), bits.size).tolist() == list(range(256))
