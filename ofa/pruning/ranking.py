"""Ranking: fp32 masters in, the keep masks of the whole model out, on every rank the same.

Each rank scores and ranks the strips that it holds; what travels is small: pieces of the strips that a span's end cuts,
each to the one rank that ranks the strip, three histograms, the number of ties in each part, and the masks at one bit a
weight. So the masks do not depend on how many ranks there are or where their spans end, and no rank holds more of the
masters than its own and one strip at the end of each of its spans. The road not taken is to gather each fp32 tensor and
rank it everywhere: simpler, but 32 times the traffic and the same work on every rank. Each rank's share of a cut unit's
sum would be smaller still, but sums would round differently wherever spans end elsewhere.

Collectives of one selection: three sums of histograms, one of tie counts, one gather; before them one exchange of
pieces, where ranks share a cut strip. The host waits for the device once, for all thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ofa import dist
from ofa.pruning.allocation import RankingGroup
from ofa.pruning.bits import pack_bits, unpack_bits
from ofa.pruning.kth import Threshold, kth_smallest, piece_size, sort_keys
from ofa.pruning.parts import Division, Part, Piece, divide
from ofa.pruning.pattern import GONE, Pattern
from ofa.pruning.pruner import Span


class Ranking:
    """Selects the keep masks of a scope."""

    def __init__(
        self,
        groups: Sequence[RankingGroup],
        shapes: Mapping[str, torch.Size],
        spans: Sequence[Sequence[Span]],
        *,
        ties: Literal["index", "drop_all"] = "index",
        ranks: dist.Ranks | None = None,
    ):
        """Lay out who ranks what.

        Args:
            groups: every scoped tensor is in exactly one.
            shapes: of the scope, by parameter name in model order.
            spans: what each rank holds, by rank (`ofa.pruning.pruner.Weights.spans`).
            ties: `index` drops the lowest flat indices first (tensors in model order) among equal scores, so that
                counts are exact; `drop_all` drops every one of them, as the published code does.
            ranks: who selects together; None: all ranks of this run.

        Raises:
            PatternError: a tensor does not divide into units of its group's pattern.
        """
        self._ranks = ranks or dist.ranks()
        self._groups, self._shapes, self._ties = list(groups), dict(shapes), ties
        self._group_of = {name: number for number, group in enumerate(groups) for name in group.names}
        assert self._group_of.keys() == shapes.keys(), "the groups are not of this scope"
        assert len(spans) == self._ranks.size, f"spans of {len(spans)} ranks, {self._ranks.size} select"
        self._strips: dict[str, int] = {}
        for name, shape in shapes.items():
            pattern = groups[self._group_of[name]].pattern
            pattern.check(name, shape)
            self._strips[name] = pattern.strip(shape)
        self._division = divide(shapes, self._strips, spans)
        parts = enumerate(self._division.parts)
        self._mine = {number: part for number, part in parts if part.rank == self._ranks.number}
        self._units = [group.units(shapes) for group in groups]
        self._lengths = [0] * len(spans)
        for part in self._division.parts:
            self._lengths[part.rank] += part.stop - part.start

    @torch.no_grad()
    def select(
        self, masters: Sequence[Tensor], sparsities: Sequence[float], frozen: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Choose what lives (a collective call).

        Args:
            masters: fp32, flat, one for each of this rank's spans; only read.
            sparsities: by group, the fraction of zeros.
            frozen: keep masks whose dropped weights stay dropped and count as such; None: every weight may live.

        Returns:
            Boolean keep masks by parameter name, whole, on the masters' device.

        Raises:
            ValueError: a master is not finite, or not fp32; on every rank alike where it is not finite.
        """
        source = _Magnitudes(self._division, self._ranks, masters, frozen)
        own = torch.zeros(self._lengths[self._ranks.number], dtype=torch.bool, device=source.device)
        sizes = [part.stop - part.start for part in self._mine.values()]
        keep_of = dict(zip(self._mine, own.split(sizes), strict=True))
        keys = {number: self._keys(part, source, keep_of[number]) for number, part in self._mine.items()}
        found = kth_smallest(
            list(keys.values()),
            [self._group_of[part.name] for part in self._mine.values()],
            [
                group.pattern.units_dropped(units, sparsity)
                for group, units, sparsity in zip(self._groups, self._units, sparsities, strict=True)
            ],
            sizes=self._units,
            sum_over_ranks=self._ranks.sum,
            device=source.device,
        )
        for number, limit in self._limits(found).items():
            kept = limit.applied(keys.pop(number)).logical_not_()
            self._keep_units(self._mine[number], kept, keep_of[number])
        keep = self._exchange(own)
        for name, mask in (frozen or {}).items():
            keep[name] &= mask
        return keep

    def _keys(self, part: Part, source: _Magnitudes, spared: Tensor) -> Tensor:
        """int32 keys of a part's units; sets in `spared`, bool [weights] of False, what they keep even if dropped."""
        pattern = self._pattern(part)
        keys = torch.empty(len(spared) // pattern.unit, dtype=torch.int32, device=source.device)
        for begin, end in self._pieces(part, source.device):
            scores = pattern.scores(source.of(part, begin, end), self._columns(part), spared[begin:end])
            keys[begin // pattern.unit : end // pattern.unit] = sort_keys(scores)
        return keys

    def _keep_units(self, part: Part, units: Tensor, keep: Tensor) -> None:
        """Add to `keep`, bool [weights], all weights of the units that are True in bool [units]."""
        pattern = self._pattern(part)
        for begin, end in self._pieces(part, keep.device):
            some = units[begin // pattern.unit : end // pattern.unit]
            keep[begin:end].logical_or_(pattern.spread(some, self._columns(part)))

    def _pieces(self, part: Part, device: torch.device) -> Iterator[tuple[int, int]]:
        """Runs of whole strips, counted from the part's first weight, that are worked on at a time."""
        strip, size = self._strips[part.name], part.stop - part.start
        step = max(strip, piece_size(device) // strip * strip)
        return ((begin, min(begin + step, size)) for begin in range(0, size, step))

    def _limits(self, found: Threshold) -> dict[int, _Limit]:
        """By part of this rank: which of its units are dropped."""
        counts = torch.zeros(len(self._division.parts), dtype=torch.int64, device=found.key.device)
        counts[list(self._mine)] = found.equal.to(torch.int64)
        self._ranks.sum(counts)
        # The only place where the host waits for the device.
        numbers = torch.cat([found.not_finite.view(1), found.key, found.ties, counts]).tolist()
        not_finite, numbers, groups = numbers[0], numbers[1:], len(self._groups)
        if not_finite:
            raise ValueError(f"cannot rank weights that are not finite: the run has diverged ({not_finite} units)")
        keys, left, equal_of_parts = numbers[:groups], numbers[groups : 2 * groups], numbers[2 * groups :]
        limits = []
        for part, equal in zip(self._division.parts, equal_of_parts, strict=True):
            group = self._group_of[part.name]
            dropped = equal if self._ties == "drop_all" else min(equal, left[group])
            left[group] -= dropped
            limits.append(_Limit(keys[group], dropped, equal))
        return {number: limits[number] for number in self._mine}

    def _exchange(self, own: Tensor) -> dict[str, Tensor]:
        """Whole keep masks, views of one buffer, from those of every rank's parts."""
        if self._ranks.size == 1:
            everything = own
        else:
            gathered = self._ranks.gather(pack_bits(own, max(self._lengths)))
            of_ranks = [unpack_bits(bits, length) for bits, length in zip(gathered, self._lengths, strict=True)]
            sizes: list[list[int]] = [[] for _ in of_ranks]
            for part in self._division.parts:
                sizes[part.rank].append(part.stop - part.start)
            of_parts = [iter(bits.split(size)) for bits, size in zip(of_ranks, sizes, strict=True)]
            everything = torch.cat([next(of_parts[part.rank]) for part in self._division.parts])
        masks = everything.split([shape.numel() for shape in self._shapes.values()])
        return {name: mask.view(shape) for (name, shape), mask in zip(self._shapes.items(), masks, strict=True)}

    def _pattern(self, part: Part) -> Pattern:
        return self._groups[self._group_of[part.name]].pattern

    def _columns(self, part: Part) -> int:
        return self._shapes[part.name][-1]


class _Magnitudes:
    """Magnitudes of this rank's parts, with the cut strips that it owns put together."""

    def __init__(
        self,
        division: Division,
        ranks: dist.Ranks,
        masters: Sequence[Tensor],
        frozen: Mapping[str, Tensor] | None,
    ):
        wrong = {str(master.dtype) for master in masters if master.dtype != torch.float32}
        if wrong:
            raise ValueError(f"masters must be fp32 so that ranks are exact, found {', '.join(wrong)}")
        self.device = masters[0].device if masters else dist.device()
        self._masters, self._frozen = masters, frozen
        self._cut = torch.empty(division.buffers[ranks.number], dtype=torch.float32, device=self.device)
        kept = division.kept(ranks.number)
        self._put(kept, self._held(kept))
        if division.travels:
            self._complete(division, ranks)

    def _complete(self, division: Division, ranks: dist.Ranks) -> None:
        """Send pieces to the owners of their strips, and put in place those that come (a collective call)."""
        sent = [division.sent(ranks.number, owner) for owner in range(ranks.size)]
        coming = [division.sent(rank, ranks.number) for rank in range(ranks.size)]
        came = ranks.exchange(
            torch.cat([self._cut.new_empty(0), *self._held(chain(*sent))]),
            [sum(piece.length for piece in pieces) for pieces in sent],
            [sum(piece.length for piece in pieces) for pieces in coming],
        )
        self._put(chain(*coming), came.split([piece.length for piece in chain(*coming)]))

    def _held(self, pieces: Iterable[Piece]) -> list[Tensor]:
        """The weights of pieces that this rank holds; views."""
        return [self._masters[piece.span].narrow(0, piece.begin, piece.length) for piece in pieces]

    def _put(self, pieces: Iterable[Piece], weights: Sequence[Tensor]) -> None:
        """Write weights to their pieces' places in the cut strips."""
        for piece, some in zip(pieces, weights, strict=True):
            self._cut.narrow(0, piece.offset, piece.length).copy_(some)

    def of(self, part: Part, begin: int, end: int) -> Tensor:
        """A fresh flat fp32 tensor: weights [begin, end) of a part, counted from its first; `GONE` where they were
        dropped for good."""
        source = self._cut if part.span is None else self._masters[part.span]
        magnitudes = source.narrow(0, part.offset + begin, end - begin).abs()
        if self._frozen is None:
            return magnitudes
        keep = self._frozen[part.name].view(-1).narrow(0, part.start + begin, end - begin)
        return torch.where(keep, magnitudes, GONE)


class _Limit(NamedTuple):
    """Which units of a part are dropped: those with a smaller key, and the first `dropped` of the `equal` ones."""

    key: int
    dropped: int
    equal: int

    def applied(self, keys: Tensor) -> Tensor:
        """bool [units]: dropped."""
        if self.dropped == self.equal:
            return keys <= self.key
        chosen = keys < self.key
        if self.dropped:
            equal = keys == self.key
            chosen |= equal & (equal.cumsum(dim=0) <= self.dropped)
        return chosen


def select_whole(
    groups: Sequence[RankingGroup],
    weights: Mapping[str, Tensor],
    sparsities: Sequence[float],
    *,
    ties: Literal["index", "drop_all"] = "index",
) -> dict[str, Tensor]:
    """Keep masks of fp32 weights that this process holds whole; no collective, whatever other ranks do.

    Args:
        groups: every weight is in exactly one.
        weights: by parameter name, in model order.
        sparsities: by group.
        ties: as in `Ranking`.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    spans = [[Span(name, 0, weight.numel()) for name, weight in weights.items()]]
    ranking = Ranking(groups, shapes, spans, ties=ties, ranks=dist.ALONE)
    return ranking.select([weight.detach().flatten() for weight in weights.values()], sparsities)
