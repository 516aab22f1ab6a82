"""Timing on machines that do other things too: variants take turns, and what counts is the median of ratios.

In: works to do, by name. Out: a figure of each, round by round, so that a ratio compares neighbours in time. The road
not taken is timing each variant in a block of its own: a load that comes and goes then decides the ratio.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

Key = TypeVar("Key")


def interleaved(works: Mapping[Key, Callable[[int], float]], rounds: int) -> dict[Key, list[float]]:
    """What each work returns in each round; a work is called with the round's number.

    Each round begins with another work, so that none always follows the same.
    """
    names = list(works)
    found: dict[Key, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(works[name](number))
    return found


def timed(work: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Wall seconds of one work, its kernels included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: str | torch.device) -> None:
    """Until the device has done what it was given; a CPU has."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def ratios(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """`median`, `p10` and `p90` of one[i] / other[i], figures of the same round."""
    found = sorted(a / b for a, b in zip(one, other, strict=True))
    last = len(found) - 1
    return {"median": statistics.median(found), "p10": found[round(0.1 * last)], "p90": found[round(0.9 * last)]}


def median_interval(
    one: Sequence[float], other: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Between which values the median of one[i] / other[i] lies, whatever the distribution of the ratios: two of them,
    of equal rank from both ends (the sign test's interval). None: of so few rounds none has that confidence, not even
    from the least to the largest, which leave out the median with a chance of 2 / 2^n; 95 % need 6."""
    found = sorted(a / b for a, b in zip(one, other, strict=True))
    number = len(found)
    below, rank = 1.0, 0  # ways of 2^n in which at most `rank` ratios lie below the median
    while 2 * below <= (1 - confidence) * 2**number:
        rank += 1
        below += math.comb(number, rank)
    return (found[rank - 1], found[number - rank]) if rank else None


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p95 in milliseconds; the tail is a value that was measured, not one between two."""
    ordered, last = sorted(seconds), len(seconds) - 1
    tail = {f"p{share}": 1e3 * ordered[round(share / 100 * last)] for share in (90, 95)}
    return {"p50": 1e3 * statistics.median(ordered), **tail}
