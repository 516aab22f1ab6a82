"""Parts: which rank ranks which weights.

Comes in: the shapes of the scope, the strip of each tensor (the shortest run that cuts no unit), and the spans that
each rank holds. Goes out: parts, each of whole strips and of one rank, which together cover every weight once; and the
pieces of strips that a span's end cuts. A cut strip belongs to the rank that holds its first weight. Moving the spans
so that nothing is cut was left aside: where they end is DeepSpeed's decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ofa.pruning.pruner import Span


@dataclass(frozen=True)
class Part:
    """The weights [start, stop) of one scoped tensor, flat: whole strips that one rank ranks."""

    rank: int
    name: str
    start: int
    stop: int
    span: int | None
    """The rank's span that holds them; None: strips put together in the buffer of cut strips."""
    offset: int
    """Where its first weight stands in that span's master, or in the buffer."""


@dataclass(frozen=True)
class Piece:
    """What one span gives to a cut strip."""

    rank: int
    span: int
    begin: int
    """First weight, in the span's master."""
    length: int
    offset: int
    """Its place in the buffer of cut strips."""


@dataclass(frozen=True)
class Division:
    """A scope divided among ranks."""

    parts: list[Part]
    """In model order, then by first weight: the order in which ties are broken."""
    pieces: list[Piece]
    buffer: int
    """Weights of all cut strips."""


def divide(
    shapes: Mapping[str, torch.Size], strips: Mapping[str, int], spans: Sequence[Sequence[Span]]
) -> Division:
    """Divide a scope.

    Args:
        shapes: by parameter name, in model order.
        strips: by parameter name; each divides its tensor.
        spans: by rank; together they cover every weight of the scope exactly once.
    """
    parts: list[Part] = []
    pieces: list[Piece] = []
    buffer = 0
    for name, shape in shapes.items():
        held = sorted(
            (span.start, span.stop, rank, number)
            for rank, of_rank in enumerate(spans)
            for number, span in enumerate(of_rank)
            if span.name == name and span.start < span.stop
        )
        _check_cover(name, math.prod(shape), held)
        whole = list(_whole_strips(name, strips[name], held))
        cut = list(_cut_strips(strips[name], held))
        for first in cut:
            stop = first + strips[name]
            owner = next(rank for a, b, rank, _ in held if a <= first < b)
            whole.append(Part(owner, name, first, stop, None, buffer))
            pieces += _pieces(held, first, stop, buffer)
            buffer += strips[name]
        parts += sorted(whole, key=lambda part: part.start)
    return Division(parts, pieces, buffer)


def _whole_strips(name: str, strip: int, held: Sequence[tuple[int, int, int, int]]) -> Iterator[Part]:
    for a, b, rank, number in held:
        start, stop = -(-a // strip) * strip, b // strip * strip
        if start < stop:
            yield Part(rank, name, start, stop, number, start - a)


def _cut_strips(strip: int, held: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """First weights of the strips that have a span's end inside."""
    return sorted({b // strip * strip for _, b, _, _ in held if b % strip})


def _pieces(held: Sequence[tuple[int, int, int, int]], start: int, stop: int, buffer: int) -> Iterator[Piece]:
    for a, b, rank, number in held:
        low, high = max(a, start), min(b, stop)
        if low < high:
            yield Piece(rank, number, low - a, high - low, buffer + low - start)


def _check_cover(name: str, numel: int, held: Sequence[tuple[int, int, int, int]]) -> None:
    ends = [0, *(b for _, b, _, _ in held)]
    starts = [*(a for a, _, _, _ in held), numel]
    assert starts == ends, f"the ranks' spans do not cover {name} exactly once"
