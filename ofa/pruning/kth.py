"""The k-th smallest of many groups at once, by radix histogram: linear, without sorting, the same for any shards.

Scores become integer keys that are ordered like them (the bit pattern of a magnitude). Three histograms over 11, 10 and
10 bits of the keys, each summed over all ranks, then give the k-th smallest key of every group bit by bit. Integer
counts add up the same in any order, so every rank finds the same threshold however the keys are divided. `kthvalue` on
a gathered copy was left aside: it needs a whole tensor in one place, and on a GPU it is slower than sorting; sorting
costs ten times as much and 12 bytes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIGITS = (11, 10, 10)
"""Bits of a key per pass, from the highest; together the 31 of a magnitude."""

NOT_FINITE = 0x7F8
"""The first digit of infinity and of every NaN. The largest finite fp32 number shares it, and counts as diverged."""

PIECE = 2**21
"""Keys that are counted at a time: bounds the memory beside the keys."""

INT32_COUNTS = 2**31
"""Groups below this size are counted in int32."""


@dataclass(frozen=True)
class Threshold:
    """Where each group's k smallest keys end; one number per group, on the keys' device."""

    key: Tensor
    """The k-th smallest key: every smaller one is among the k smallest. 0, with no ties, where k is 0."""
    ties: Tensor
    """How many of the keys equal to it are among them."""
    not_finite: Tensor
    """How many scores of all groups together are infinite or NaN; then the rest means nothing. Shape []."""


def sort_keys(scores: Tensor) -> Tensor:
    """int32 keys ordered like fp32 scores >= 0; 0 for every score below zero. Overwrites `scores`."""
    # One step up makes room for the 0; the largest bit patterns are NaNs, which must not wrap around.
    return scores.view(torch.int32).clamp_(-1, 2**31 - 2).add_(1)


def kth_smallest(
    keys: Sequence[Tensor],
    group_of: Sequence[int],
    wanted: Sequence[int],
    *,
    sizes: Sequence[int],
    sum_over_ranks: Callable[[Tensor], None],
    device: torch.device,
) -> Threshold:
    """Find where the `wanted[g]` smallest keys of each group end (a collective call; the host waits for nothing).

    Args:
        keys: this rank's keys, flat int32 tensors of any number and size.
        group_of: the group of each tensor.
        wanted: by group, how many of its keys over all ranks; 0 to its size.
        sizes: by group, its number of keys over all ranks.
        sum_over_ranks: adds up an integer tensor over all ranks, in place; called once per pass.
        device: of the keys.
    """
    left = torch.tensor(wanted, dtype=torch.int64, device=device)
    prefix = torch.zeros(len(wanted), dtype=torch.int64, device=device)
    counts_type = torch.int32 if max(sizes, default=0) < INT32_COUNTS else torch.int64
    not_finite = torch.zeros((), dtype=torch.int64, device=device)
    shift = sum(DIGITS)
    for bits in DIGITS:
        shift -= bits
        counts = torch.zeros(len(wanted), 2**bits, dtype=counts_type, device=device)
        for part, group in zip(keys, group_of, strict=True):
            for piece in part.split(PIECE):
                counts[group] += _count_digits(piece, prefix[group], shift, bits)
        sum_over_ranks(counts)
        if bits == DIGITS[0]:
            not_finite = counts[:, NOT_FINITE:].sum()
        digit, smaller = _digit_of(counts, left)
        left -= smaller
        prefix = (prefix << bits) + digit
    return Threshold(prefix, left, not_finite)


def _count_digits(keys: Tensor, prefix: Tensor, shift: int, bits: int) -> Tensor:
    """Histogram [2^bits] of the digit at `shift` over the keys whose higher digits are `prefix`."""
    bins = 2**bits
    digits = (keys >> shift).sub_((prefix << bits).to(torch.int32))  # keys with another prefix fall outside [0, bins)
    if keys.is_cuda:
        # bincount would make the host wait; histc skips what is out of range, and the bin beyond takes its edge.
        return digits.histc(bins + 1, min=0, max=bins + 1)[:bins]
    return digits.clamp_(-1, bins).add_(1).bincount(minlength=bins + 2)[1:-1]


def _digit_of(counts: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """By group: the digit in whose bin the `left`-th key lies, and how many keys lie in the bins below it."""
    up_to = counts.cumsum(dim=1, dtype=torch.int64)
    digit = (up_to < left.unsqueeze(1)).sum(dim=1)
    including = up_to.gather(1, digit.unsqueeze(1)).squeeze(1)
    inside = counts.gather(1, digit.unsqueeze(1)).squeeze(1)
    return digit, including - inside
