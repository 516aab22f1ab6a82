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

import numpy as np
import torch
from torch import Tensor

DIGITS = (11, 10, 10)
"""Bits of a key per pass, from the highest; together the 31 of a magnitude."""

NOT_FINITE = 0x7F8
"""The first digit of infinity and of every NaN. The largest finite fp32 number shares it, and counts as diverged."""

INT32_COUNTS = 2**31
"""Groups below this size are counted in int32."""


@dataclass(frozen=True)
class Threshold:
    """Where each group's k smallest keys end; numbers are one per group, on the keys' device."""

    key: Tensor
    """The k-th smallest key: every smaller one is among the k smallest. 0, with no ties, where k is 0."""
    ties: Tensor
    """How many of the keys equal to it are among them."""
    equal: Tensor
    """Of each of this rank's tensors of keys: how many equal its group's threshold."""
    not_finite: Tensor
    """How many scores of all groups together are infinite or NaN; then the rest means nothing. Shape []."""


def piece_size(device: torch.device) -> int:
    """Weights that are worked on at a time, which bounds the memory beside the keys: on a CPU what stays in a core's
    cache; a GPU had rather be asked seldom."""
    return 2**24 if device.type == "cuda" else 2**17


def sort_keys(scores: Tensor) -> Tensor:
    """int32 keys ordered like fp32 scores; 0 for every score with a minus sign, -0.0 too. Overwrites `scores`."""
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
    of_group = torch.tensor(group_of, dtype=torch.int64, device=device)
    counts_type = torch.int32 if max(sizes, default=0) < INT32_COUNTS else torch.int64
    not_finite = torch.zeros((), dtype=torch.int64, device=device)
    shift, candidates = sum(DIGITS), list(keys)
    local, digit = torch.zeros(len(keys), 1, device=device), prefix
    for bits in DIGITS:
        shift -= bits
        local = torch.zeros(len(keys), 2**bits, dtype=counts_type, device=device)
        for row, part, group in zip(local, candidates, group_of, strict=True):
            for piece in part.split(piece_size(device)):
                row += _count_digits(piece, prefix[group], shift, bits)
        counts = torch.zeros(len(wanted), 2**bits, dtype=counts_type, device=device).index_add_(0, of_group, local)
        sum_over_ranks(counts)
        if bits == DIGITS[0]:
            not_finite = counts[:, NOT_FINITE:].sum()
        digit, smaller = _digit_of(counts, left)
        left -= smaller
        prefix = (prefix << bits) + digit
        candidates = [_matching(part, prefix[group], shift) for part, group in zip(candidates, group_of, strict=True)]
    return Threshold(prefix, left, local.gather(1, digit[of_group].unsqueeze(1)).squeeze(1), not_finite)


def _count_digits(keys: Tensor, prefix: Tensor, shift: int, bits: int) -> Tensor:
    """Histogram [2^bits] of the digit at `shift` over the keys whose higher digits are `prefix`."""
    digits = (keys >> shift).sub_((prefix << bits).to(torch.int32))  # keys with another prefix fall outside the bins
    if keys.device.type == "cpu":
        return digits.bincount(minlength=2**bits)
    # bincount would make the host wait. histc skips what is out of range; a bin beyond the last takes the range's edge.
    return digits.histc(2**bits + 1, min=0, max=2**bits + 1)[:-1]


def _matching(keys: Tensor, prefix: Tensor, shift: int) -> Tensor:
    """The keys whose digits from `shift` on are `prefix`. All keys where choosing would make the host wait for a
    device, which counts the rest in no time."""
    if keys.device.type != "cpu":
        return keys
    places = [
        np.flatnonzero((piece >> shift).numpy() == int(prefix)) + begin * piece_size(keys.device)
        for begin, piece in enumerate(keys.split(piece_size(keys.device)))
    ]
    return torch.from_numpy(keys.numpy()[np.concatenate(places)])  # numpy's is three times as fast as torch's


def _digit_of(counts: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """By group: the digit in whose bin the `left`-th key lies, and how many keys lie in the bins below it."""
    up_to = counts.cumsum(dim=1, dtype=torch.int64)
    digit = (up_to < left.unsqueeze(1)).sum(dim=1)
    including = up_to.gather(1, digit.unsqueeze(1)).squeeze(1)
    inside = counts.gather(1, digit.unsqueeze(1)).squeeze(1)
    return digit, including - inside
