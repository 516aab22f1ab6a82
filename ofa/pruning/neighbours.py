"""Groups of M neighbours: what each loses if it keeps its N largest, and which those are.

Comes in: magnitudes of many groups, flat. Goes out: a score per group, and a boolean per weight. In between they are
`members` [M, groups], one contiguous row per place in the group, compared as integers by their bit patterns: for
magnitudes that is the same order, and it puts -0.0 (`BELOW_ALL`) below 0.0, which floats hold to be equal. For the
small M of hardware, comparing whole rows pairwise is several times faster than sorting many short groups.

Booleans of neighbours lie in consecutive bytes, so as many of them as divide M are worked on as one integer, a byte
each: writing every M-th byte costs more than all the comparisons. The first byte is the lowest, as on every device that
torch supports.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

BELOW_ALL = -0.0
"""A magnitude that is smaller than every other, and adds nothing to a sum."""

MOST = 128
"""Largest M: a byte counts the neighbours that go before a weight, with its highest bit to spare."""

INFINITE = 0x7F800000
"""Bit pattern of infinity: every smaller magnitude is a number, and none above it."""

MINUS_INFINITE = INFINITE - 2**31
"""The same with the sign's bit."""

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by bytes."""


def members_of(magnitudes: Tensor, size: int) -> Tensor:
    """int32 [size, groups]: the bit patterns of fp32 magnitudes [groups * size], flat."""
    members = magnitudes.new_empty(size, magnitudes.numel() // size, dtype=torch.int32)
    for place, member in enumerate(members):
        member.copy_(magnitudes.view(torch.int32)[place::size])  # several times as fast as transposing
    return members


def smallest_sums(members: Tensor, count: int) -> Tensor:
    """fp32 [groups]: the `count` smallest of each group, below M, added from the smallest on.

    With a minus sign if they are all `BELOW_ALL`; not finite if any of the M is not.
    """
    values = list(members)
    for place in range(count):
        for upper in range(len(values) - 1, place, -1):
            pair = values[upper - 1], values[upper]
            values[upper - 1], values[upper] = torch.minimum(*pair), torch.maximum(*pair)
    total = values[0].view(torch.float32)
    for value in values[1:count]:
        total += value.view(torch.float32)
    largest = values[count]
    for value in values[count + 1 :]:
        largest = torch.maximum(largest, value)
    # One bad weight makes its group bad, though it would stay: less -inf there, and less 0.0 elsewhere, which leaves
    # -0.0 as it is. Choosing by a boolean would take six times as long.
    bad = torch.ge(largest, INFINITE, out=torch.empty_like(largest)).mul_(MINUS_INFINITE)
    return total.sub_(bad.view(torch.float32))


def spare_largest(members: Tensor, count: int, spared: Tensor) -> None:
    """Set `spared`, bool [groups * M], where a weight is among the `count` largest of its group; of equal ones the
    lowest place goes first."""
    size = len(members)
    width = _width(size)
    # How many neighbours go before each weight, plus what sets a byte's highest bit for the last `count` of a group. A
    # weight begins with all that follow it, and counts down or up with each comparison.
    begin = [MOST - (size - count) + size - 1 - place for place in range(size)]
    words = [int.from_bytes(begin[first : first + width], "little", signed=True) for first in range(0, size, width)]
    before = [torch.full_like(members[0], word, dtype=WORDS[width]) for word in words]
    goes_first = torch.empty_like(before[0])
    for one, other in combinations(range(size), 2):
        # Into integers: into booleans it would take five times as long.
        torch.le(members[one], members[other], out=goes_first)
        before[one // width].sub_(goes_first, alpha=256 ** (one % width))
        before[other // width].add_(goes_first, alpha=256 ** (other % width))
    torch.signbit(_in_turn(before), out=spared)


def on_every(groups: Tensor, size: int) -> Tensor:
    """bool [groups * size]: each group's bool [groups] for all of its weights."""
    width = _width(size)
    words = groups.to(WORDS[width]).mul_(int.from_bytes([1] * width, "little"))
    return _in_turn([words] * (size // width)).view(torch.bool)


def _in_turn(words: list[Tensor]) -> Tensor:
    """int8, flat: the bytes of the first group's words, then of the second's ..."""
    return torch.stack(words, dim=1).view(-1).view(torch.int8)


def _width(size: int) -> int:
    """Bytes of the widest integer that holds neighbours of one group only."""
    return math.gcd(size, max(WORDS))
