"""Parts: which rank ranks which weights.

Comes in: the shapes of the scope, the strip of each tensor (the shortest run that cuts no unit), and the spans that
each rank holds. Goes out: parts, each of whole strips and of one rank, which together cover every weight once; and the
pieces of strips that a span's end cuts. A cut strip belongs to the rank that holds its first weight, its owner, and is
put together there and nowhere else. Moving the spans so that nothing is cut was left aside: where they end is
DeepSpeed's decision.
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
    """The rank's span that holds them; None: strips put together in the rank's buffer of cut strips."""
    offset: int
    """Where its first weight stands in that span's master, or in the buffer."""


@dataclass(frozen=True)
class Piece:
    """What one span gives to a cut strip."""

    span: int
    """Of the rank that holds it."""
    begin: int
    """First weight, in the span's master."""
    length: int
    offset: int
    """Its place in the buffer of the strip's owner."""


@dataclass(frozen=True)
class Division:
    """A scope divided among ranks."""

    parts: list[Part]
    """In model order, then by first weight: the order in which ties are broken."""
    pieces: Mapping[tuple[int, int], list[Piece]]
    """By the rank that holds them and the owner of their strips."""
    buffers: list[int]
    """By rank: weights of the cut strips that it owns, which its buffer holds one after the other."""

    @property
    def travels(self) -> bool:
        """Whether any rank has a piece of another's strip."""
        return any(rank != owner for rank, owner in self.pieces)

    def kept(self, rank: int) -> list[Piece]:
        """What a rank holds of its own cut strips."""
        return self.pieces.get((rank, rank), [])

    def sent(self, rank: int, owner: int) -> list[Piece]:
        """What a rank sends to an owner, in the order in which it travels: the rank packs by it, the owner unpacks."""
        return [] if rank == owner else self.pieces.get((rank, owner), [])


def divide(shapes: Mapping[str, torch.Size], strips: Mapping[str, int], spans: Sequence[Sequence[Span]]) -> Division:
    """Divide a scope.

    Args:
        shapes: by parameter name, in model order.
        strips: by parameter name; each divides its tensor.
        spans: by rank; together they cover every weight of the scope exactly once.
    """
    parts: list[Part] = []
    pieces: dict[tuple[int, int], list[Piece]] = {}
    buffers = [0] * len(spans)
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
            whole.append(Part(owner, name, first, stop, None, buffers[owner]))
            for rank, piece in _pieces(held, first, stop, buffers[owner]):
                pieces.setdefault((rank, owner), []).append(piece)
            buffers[owner] += strips[name]
        parts += sorted(whole, key=lambda part: part.start)
    return Division(parts, pieces, buffers)


def _whole_strips(name: str, strip: int, held: Sequence[tuple[int, int, int, int]]) -> Iterator[Part]:
    for a, b, rank, number in held:
        start, stop = -(-a // strip) * strip, b // strip * strip
        if start < stop:
            yield Part(rank, name, start, stop, number, start - a)


def _cut_strips(strip: int, held: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """First weights of the strips that have a span's end inside."""
    return sorted({b // strip * strip for _, b, _, _ in held if b % strip})


def _pieces(
    held: Sequence[tuple[int, int, int, int]], start: int, stop: int, offset: int
) -> Iterator[tuple[int, Piece]]:
    """Of the strip [start, stop), which stands at `offset` of its owner's buffer: who holds it, and where."""
    for a, b, rank, number in held:
        low, high = max(a, start), min(b, stop)
        if low < high:
            yield rank, Piece(number, low - a, high - low, offset + low - start)


def _check_cover(name: str, numel: int, held: Sequence[tuple[int, int, int, int]]) -> None:
    ends = [0, *(b for _, b, _, _ in held)]
    starts = [*(a for a, _, _, _ in held), numel]
    assert starts == ends, f"the ranks' spans do not cover {name} exactly once"
