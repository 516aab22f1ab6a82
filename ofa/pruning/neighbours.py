"""Groups of M neighbours: what each loses if it keeps its N largest, and which those are.

Comes in: magnitudes of many groups, flat. Goes out: a score per group, and a boolean per weight. In between they are
`members` [M, groups], one contiguous row per place in the group, compared as integers by their bit patterns: for
magnitudes that is the same order, and it puts -0.0 (`BELOW_ALL`) below 0.0, which floats hold to be equal. Comparing
whole rows, in the same steps for every group, is several times faster than sorting many short groups, for every M.

Small M bring their smallest to the front one by one; the work for this grows with M^2, so large M pass through a
sorting network (Batcher 1968, odd-even merge). Who stays: small M compare every pair, which again grows with M^2; the
others compare each with the largest that goes, which does not grow, but costs more at first.

Booleans of neighbours lie in consecutive bytes, so several are worked on as one integer, a byte each: writing every
M-th byte costs more than all the comparisons. The first byte is the lowest, as on every device that torch supports. In
such a word, a product with 0x01010101 leaves in each byte the sum of the bytes up to it: how many of the neighbours up
to there are true. Sums that reach a word's sign wrap around, as torch's integers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, pairwise

import torch
from torch import Tensor

BELOW_ALL = -0.0
"""A magnitude that is smaller than every other, and adds nothing to a sum."""

MOST = 128
"""Largest M: a byte counts the neighbours that go before a weight, with its highest bit to spare."""

BY_LIMIT_FROM = 8
"""From this M on, comparing with the largest that goes is faster than comparing all pairs."""

NETWORK_FROM = 16
"""From this M on, a sorting network is faster, and so is transposing beside copying place by place."""

INFINITE = 0x7F800000
"""Bit pattern of infinity: every smaller magnitude is a number, and none above it."""

MINUS_INFINITE = INFINITE - 2**31
"""The same with the sign's bit."""

ABOVE_ALL = 2**31 - 1
"""The largest bit pattern."""

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by bytes."""

LANES = 4
"""Bytes of the words that count equal neighbours. Arithmetic on int64 takes several times as long."""

EACH = 0x01010101
"""1 in each of them."""


def lose_smallest(magnitudes: Tensor, size: int, kept: int, spared: Tensor) -> Tensor:
    """What each group loses if only its `kept` largest stay, of equal ones those in the last places.

    Args:
        magnitudes: fp32 [groups * size], flat; signs are clear but for `BELOW_ALL`.
        size: weights in a group, 2 to `MOST`.
        kept: 1 to size - 1.
        spared: bool [groups * size]; overwritten with who stays.

    Returns:
        fp32 [groups]: the sum of the others, added from the smallest on; with a minus sign if they are all `BELOW_ALL`;
        not finite if any weight of the group is not.
    """
    lost = size - kept
    members = _members(magnitudes, size)
    ordered = _smallest_first(members, lost) if size < NETWORK_FROM else _ascending(members)
    if size < BY_LIMIT_FROM:
        _spare_by_pairs(members, kept, spared)
    else:
        _spare_by_limit(members, ordered[lost - 1], lost, spared)
    return _sums(ordered, lost)


def on_every(groups: Tensor, size: int) -> Tensor:
    """bool [groups * size]: each group's bool [groups] for all of its weights."""
    width = _width(size)
    words = groups.to(WORDS[width]).mul_(int.from_bytes([1] * width, "little"))
    return _in_turn([words] * (size // width)).view(torch.bool)


def _members(magnitudes: Tensor, size: int) -> Tensor:
    """int32 [size, groups]: the bit patterns of magnitudes [groups * size], flat, by place in the group."""
    bits = magnitudes.view(torch.int32).view(-1, size)
    if size >= NETWORK_FROM:
        return bits.t().contiguous()
    members = bits.new_empty(size, len(bits))
    for place, member in enumerate(members):
        member.copy_(bits[:, place])  # several times as fast as transposing so few
    return members


def _smallest_first(members: Tensor, count: int) -> list[Tensor]:
    """int32 [groups], M times: the `count` smallest of each group, ascending, then the others, the largest last."""
    values = list(members)
    for place in range(count):
        for upper in range(len(values) - 1, place, -1):
            pair = values[upper - 1], values[upper]
            values[upper - 1], values[upper] = torch.minimum(*pair), torch.maximum(*pair)
    for upper in range(count + 1, len(values)):
        values[upper] = torch.maximum(values[upper - 1], values[upper])
    return values


def _ascending(members: Tensor) -> list[Tensor]:
    """int32 [groups], M times: each group in order, by odd-even merges of runs of 1, 2, 4 ..."""
    size, groups = members.shape
    wires = 2 ** (size - 1).bit_length()
    rows = torch.cat([members, members.new_full((wires - size, groups), ABOVE_ALL)])
    run = 1
    while run < wires:
        # The first step of a merge takes in every wire, and so may write elsewhere, which spares a copy.
        merged = torch.empty_like(rows)
        low, high = _compared_rows(rows, run, run)
        least, greatest = _compared_rows(merged, run, run)
        torch.minimum(low, high, out=least)
        torch.maximum(low, high, out=greatest)
        rows, apart = merged, run // 2
        while apart:
            low, high = _compared_rows(rows, run, apart)
            least = torch.minimum(low, high)
            torch.maximum(low, high, out=high)
            low.copy_(least)
            apart //= 2
        run *= 2
    return list(rows[:size])


def _compared_rows(rows: Tensor, run: int, apart: int) -> tuple[Tensor, Tensor]:
    """The lower and the upper rows of [wires, groups] that one step of merging pairs of runs compares; views."""
    pairs = rows.view(-1, 2 * run, rows.shape[1])
    if apart < run:
        pairs = pairs[:, apart:-apart]
    low, high = pairs.unflatten(1, (-1, 2, apart)).unbind(2)
    return low, high


def _sums(ordered: list[Tensor], count: int) -> Tensor:
    """fp32 [groups]: the first `count` rows, added from the first on; not finite if the last row, the largest, is
    not."""
    total = ordered[0].view(torch.float32).clone()
    for value in ordered[1:count]:
        total += value.view(torch.float32)
    # One bad weight makes its group bad, though it would stay: less -inf there, and less 0.0 elsewhere, which leaves
    # -0.0 as it is. Choosing by a boolean would take six times as long.
    bad = torch.ge(ordered[-1], INFINITE, out=torch.empty_like(ordered[-1])).mul_(MINUS_INFINITE)
    return total.sub_(bad.view(torch.float32))


def _spare_by_pairs(members: Tensor, count: int, spared: Tensor) -> None:
    """Set `spared`, bool [groups * M], where a weight is among the `count` largest of its group."""
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


def _spare_by_limit(members: Tensor, limit: Tensor, lost: int, spared: Tensor) -> None:
    """The same with `limit` [groups], the largest of the `lost` magnitudes that go: what is above it stays, and of
    those that equal it the first go until `lost` have gone."""
    size, groups = members.shape
    flags = members.new_empty(-(-size // LANES) * LANES, groups)  # one for both: fresh memory costs more than comparing
    flags[size:].zero_()
    above, below = _compared(torch.gt, members, limit, flags), _compared(torch.lt, members, limit, flags)
    equal = (above + below).neg_().add_(EACH)
    of_group = below[0].clone()
    for word in below[1:]:
        of_group += word
    # Per byte: those below the limit, plus the equal ones up to there, plus what sets the highest bit beyond `lost`.
    gone = equal * EACH
    in_word = gone >> 8 * (LANES - 1)
    for word, following in pairwise(in_word):
        following += word
    gone[1:].add_(in_word[:-1], alpha=EACH)
    gone.add_((of_group.mul_(EACH) >> 8 * (LANES - 1)).add_(MOST - 1 - lost), alpha=EACH)
    stays = (gone >> 7).bitwise_and_(equal).bitwise_or_(above)
    in_turn = torch.stack(list(stays), dim=1).view(torch.bool)
    spared.view(groups, size).copy_(in_turn[:, :size])


def _compared(compare: Callable[..., Tensor], members: Tensor, limit: Tensor, flags: Tensor) -> Tensor:
    """int32 [words, groups]: a byte 0 or 1 for each of members [M, groups]; 0 where M does not fill a word. `flags`,
    one for each byte, are 0 after the M-th, and are overwritten."""
    compare(members, limit, out=flags[: len(members)])
    lanes = flags.view(-1, LANES, flags.shape[1])
    words = lanes[:, 0].add(lanes[:, 1], alpha=256)
    for lane in range(2, LANES):
        words.add_(lanes[:, lane], alpha=256**lane)
    return words


def _in_turn(words: list[Tensor]) -> Tensor:
    """int8, flat: the bytes of the first group's words, then of the second's ..."""
    return torch.stack(words, dim=1).view(-1).view(torch.int8)


def _width(size: int) -> int:
    """Bytes of the widest integer that holds neighbours of one group only."""
    return math.gcd(size, max(WORDS))
