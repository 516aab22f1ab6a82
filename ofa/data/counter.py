"""Random numbers as a pure function of a key and a counter.

A key comes from (seed, purpose, ...); counters are positions, row ids or columns; out come 64 random bits for each
counter. Nothing is drawn in sequence, so nothing depends on who asks first, on workers, on ranks or on restarts.

The function is the output stage of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), which maps 64-bit numbers one to one: distinct counters under one key never collide, so sorting by them
has no ties. numpy's generators were not taken: their streams may change between numpy versions (NEP 19), and a
resumed run must see the order that the first one saw.
"""

from __future__ import annotations

import hashlib

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""Odd step between counters, 2**64 divided by the golden ratio."""

_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _S32 = (np.uint64(shift) for shift in (30, 27, 31, 11, 32))
_LOW32 = np.uint64(0xFFFFFFFF)


def key(seed: int, *purpose: str | int) -> np.ndarray:
    """uint64 [1]: the key of (seed, purpose, ...), the first 8 bytes of a sha256."""
    digest = hashlib.sha256(":".join(str(part) for part in (seed, *purpose)).encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u8").astype(np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """The one-to-one scrambling of SplitMix64, elementwise on uint64."""
    values = (values ^ (values >> _S30)) * _FIRST
    values ^= values >> _S27
    values *= _SECOND
    values ^= values >> _S31
    return values


def bits(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each counter under each key; the two are broadcast. Distinct counters give distinct bits."""
    return mix(keys + counters.astype(np.uint64) * GAMMA)


def fractions(random_bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), multiples of 2**-53, so that thresholds of 0 and 1 are never and always."""
    return (random_bits >> _S11) * 2.0**-53


def below(random_bits: np.ndarray, limit: int) -> np.ndarray:
    """int64 in [0, limit), uniform to within limit / 2**32. limit must fit in 32 bits."""
    return (((random_bits & _LOW32) * np.uint64(limit)) >> _S32).astype(np.int64)


def permutation(order_key: np.ndarray, size: int) -> np.ndarray:
    """int64 [size]: the permutation of 0 ... size - 1 that sorts the counters by their bits."""
    return np.argsort(bits(order_key, np.arange(size)), kind="stable")
