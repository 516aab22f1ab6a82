"""Ranking: fp32 masters in, the keep masks of the whole model out, on every rank the same.

Each rank scores and ranks the strips that it holds; what travels is small: the strips that a span's end cuts, three
histograms, the number of ties in each part, and the masks at one bit a weight. So the masks do not depend on how many
ranks there are or where their spans end, and no rank ever holds more of the masters than its own. The road not taken is
to gather each fp32 tensor and rank it everywhere: simpler, but 32 times the traffic and the same work on every rank.

Collectives of one selection: at most one sum of cut strips, three of histograms, one of tie counts, one gather. The
host waits for the device once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ofa import dist
from ofa.pruning.allocation import RankingGroup
from ofa.pruning.bits import pack_bits, unpack_bits
from ofa.pruning.kth import Threshold, kth_smallest, sort_keys
from ofa.pruning.parts import Part, divide
from ofa.pruning.pattern import GONE
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
        for name, shape in shapes.items():
            self._pattern(name).check(name, shape)
        strips = {name: self._pattern(name).strip(shape) for name, shape in shapes.items()}
        self._division = divide(shapes, strips, spans)
        self._units = [group.units(shapes) for group in groups]

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
        magnitudes = _Magnitudes(self._division, self._ranks, masters, frozen)
        mine = [part for part in self._division.parts if part.rank == self._ranks.number]
        keys = [sort_keys(self._pattern(part.name).scores(magnitudes.of(part), self._columns(part))) for part in mine]
        wanted = [
            group.pattern.units_dropped(units, sparsity)
            for group, units, sparsity in zip(self._groups, self._units, sparsities, strict=True)
        ]
        found = kth_smallest(
            keys,
            [self._group_of[part.name] for part in mine],
            wanted,
            sizes=self._units,
            sum_over_ranks=self._ranks.sum,
            device=magnitudes.device,
        )
        dropped = []
        for part, units in zip(mine, self._drop(mine, keys, found), strict=True):
            pattern = self._pattern(part.name)
            dropped.append(pattern.dropped(units, magnitudes.of(part), self._columns(part)))
        keep = self._exchange(dropped, magnitudes.device)
        for name, mask in (frozen or {}).items():
            keep[name] &= mask
        return keep

    def _drop(self, mine: list[Part], keys: list[Tensor], found: Threshold) -> list[Tensor]:
        """By part of this rank: which of its units are dropped."""
        own = {id(part): number for number, part in enumerate(mine)}
        counts = torch.zeros(len(self._division.parts), dtype=torch.int64, device=found.key.device)
        for place, part in enumerate(self._division.parts):
            if id(part) in own:
                counts[place] = (keys[own[id(part)]] == found.key[self._group_of[part.name]]).sum()
        self._ranks.sum(counts)
        # The only place where the host waits for the device.
        numbers = torch.cat([found.not_finite.view(1), found.key, found.ties, counts]).tolist()
        not_finite, groups = numbers[0], len(self._groups)
        if not_finite:
            raise ValueError(f"cannot rank weights that are not finite: the run has diverged ({not_finite} units)")
        limits, left, ties = numbers[1 : groups + 1], numbers[groups + 1 : 2 * groups + 1], numbers[2 * groups + 1 :]
        result = []
        for part, count in zip(self._division.parts, ties, strict=True):
            group = self._group_of[part.name]
            quota = count if self._ties == "drop_all" else min(count, left[group])
            left[group] -= quota
            if id(part) in own:
                result.append(_lowest(keys[own[id(part)]], limits[group], quota, count))
        return result

    def _exchange(self, dropped: list[Tensor], device: torch.device) -> dict[str, Tensor]:
        """Whole keep masks from what every rank drops in its parts."""
        keep = {name: torch.empty(shape, dtype=torch.bool, device=device) for name, shape in self._shapes.items()}
        mine = torch.cat(dropped) if dropped else torch.empty(0, dtype=torch.bool, device=device)
        lengths = [0] * self._ranks.size
        for part in self._division.parts:
            lengths[part.rank] += part.stop - part.start
        if self._ranks.size == 1:
            of_ranks = [mine]
        else:
            gathered = self._ranks.gather(pack_bits(mine, max(lengths)))
            of_ranks = [unpack_bits(bits, length) for bits, length in zip(gathered, lengths, strict=True)]
        begin = [0] * self._ranks.size
        for part in self._division.parts:
            bits = of_ranks[part.rank].narrow(0, begin[part.rank], part.stop - part.start)
            torch.logical_not(bits, out=keep[part.name].view(-1)[part.start : part.stop])
            begin[part.rank] += part.stop - part.start
        return keep

    def _pattern(self, name: str):
        return self._groups[self._group_of[name]].pattern

    def _columns(self, part: Part) -> int:
        return self._shapes[part.name][-1]


class _Magnitudes:
    """Magnitudes of this rank's parts, with cut strips put together; `GONE` where a weight was dropped for good."""

    def __init__(
        self,
        division,
        ranks: dist.Ranks,
        masters: Sequence[Tensor],
        frozen: Mapping[str, Tensor] | None,
    ):
        wrong = {str(master.dtype) for master in masters if master.dtype != torch.float32}
        if wrong:
            raise ValueError(f"masters must be fp32 so that ranks are exact, found {', '.join(wrong)}")
        self.device = masters[0].device if masters else dist.device()
        self._masters, self._frozen = masters, frozen
        self._cut = torch.zeros(division.buffer, dtype=torch.float32, device=self.device)
        if not division.buffer:
            return
        for piece in division.pieces:
            if piece.rank == ranks.number:
                whole = masters[piece.span].narrow(0, piece.begin, piece.length)
                self._cut.narrow(0, piece.offset, piece.length).copy_(whole)
        ranks.sum(self._cut)

    def of(self, part: Part) -> Tensor:
        """A fresh flat fp32 tensor of one part."""
        source = self._cut if part.span is None else self._masters[part.span]
        magnitudes = source.narrow(0, part.offset, part.stop - part.start).abs()
        if self._frozen is None:
            return magnitudes
        keep = self._frozen[part.name].view(-1)[part.start : part.stop]
        return magnitudes.masked_fill_(~keep, GONE)


def _lowest(keys: Tensor, limit: int, quota: int, ties: int) -> Tensor:
    """The keys below a limit and the first `quota` of the `ties` equal to it."""
    if quota == ties:
        return keys <= limit
    chosen = keys < limit
    if quota:
        at_limit = keys == limit
        chosen |= at_limit & (at_limit.cumsum(dim=0) <= quota)
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
