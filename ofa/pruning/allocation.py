"""Allocation: which tensors are ranked together, with which pattern, and to which sparsity.

The pruning section and its overrides come in, with the shapes of the scope; groups go out, each of which is ranked by
itself. What is decided here is decided once for a run; the ramp moves every group along a straight line between its two
sparsities, so that a total which is right at both ends is right in between. Scoring with a factor per tensor, so that
one global ranking gives ERK's shares, was left aside: it gives them only on average.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ofa.config import OverrideConfig, PruningConfig
from ofa.pruning.pattern import Pattern, make_pattern


class AllocationError(ValueError):
    """An override that holds for no tensor."""


@dataclass(frozen=True)
class RankingGroup:
    """Tensors whose units are ranked together."""

    names: tuple[str, ...]
    """In model order."""
    pattern: Pattern
    initial: float
    """Fraction of zeros where the ramp begins."""
    final: float
    """And where it ends."""

    def sparsity(self, remaining: float) -> float:
        """Target when `remaining` of the ramp is still to come: 1 at its start, 0 at its end (then exactly `final`)."""
        return self.final + (self.initial - self.final) * remaining

    def units(self, shapes: Mapping[str, torch.Size]) -> int:
        """Units of all its tensors."""
        return sum(math.prod(shapes[name]) for name in self.names) // self.pattern.unit

    def zeros(self, shapes: Mapping[str, torch.Size], sparsity: float) -> int:
        """Weights that are dropped at `sparsity`, over all its tensors."""
        return self.pattern.lost * self.pattern.units_dropped(self.units(shapes), sparsity)


def ranking_groups(config: PruningConfig, shapes: Mapping[str, torch.Size]) -> list[RankingGroup]:
    """The groups of a scope, ordered by their first tensor.

    Args:
        config: the pruning section. The first override whose `match` is found in a tensor's name holds for it; tensors
            without one follow the section itself.
        shapes: of the scope, by parameter name in model order.

    Raises:
        AllocationError: an override holds for no tensor; lists the names that it could match.
        PatternError: a tensor's shape is not a multiple of its pattern.
    """
    chosen = {name: target_of(config, name) for name in shapes}
    _check_overrides(config.overrides, chosen)
    groups: list[RankingGroup] = []
    for number, target in enumerate([*config.overrides, config]):
        names = [name for name in shapes if chosen[name] == number]
        pattern = make_pattern(target.pattern or config.pattern)
        for name in names:
            pattern.check(name, shapes[name])
        groups += _divide(target, pattern, config.initial_sparsity, {name: shapes[name] for name in names})
    order = {name: place for place, name in enumerate(shapes)}
    return sorted(groups, key=lambda group: order[group.names[0]])


def target_of(config: PruningConfig, name: str) -> int:
    """Number of the override that holds for a tensor; their count if the section itself does."""
    matching = (number for number, override in enumerate(config.overrides) if re.search(override.match, name))
    return next(matching, len(config.overrides))


def erk_sparsities(shapes: Mapping[str, torch.Size], sparsity: float) -> dict[str, float]:
    """Erdos-Renyi-kernel sparsities (Evci et al. 2020, section 3): the density of a tensor is eps times
    (rows + columns) / (rows * columns), at most 1, with eps such that all together have `sparsity`."""
    left = (1.0 - sparsity) * sum(math.prod(shape) for shape in shapes.values())
    dense: set[str] = set()
    while True:
        ends = {name: sum(shape) for name, shape in shapes.items() if name not in dense}
        eps = left / sum(ends.values()) if ends else 0.0
        full = {name for name, length in ends.items() if eps * length >= math.prod(shapes[name])}
        if not full:
            return {
                name: 0.0 if name in dense else 1.0 - eps * ends[name] / math.prod(shape)
                for name, shape in shapes.items()
            }
        # What a full tensor cannot take is shared by the others.
        left -= sum(math.prod(shapes[name]) for name in full)
        dense |= full


def _divide(
    target: PruningConfig | OverrideConfig, pattern: Pattern, initial: float, shapes: Mapping[str, torch.Size]
) -> list[RankingGroup]:
    """The groups of the tensors that share one target."""
    names = tuple(shapes)
    final = pattern.reachable(target.sparsity)
    first = min(initial, final)
    if target.allocation == "global":
        return [RankingGroup(names, pattern, first, final)] if names else []
    if target.allocation == "erk":
        starts, ends = erk_sparsities(shapes, first), erk_sparsities(shapes, final)
        return [RankingGroup((name,), pattern, starts[name], ends[name]) for name in names]
    return [RankingGroup((name,), pattern, first, final) for name in names]


def _check_overrides(overrides: Sequence[OverrideConfig], chosen: Mapping[str, int]) -> None:
    for number, override in enumerate(overrides):
        if number in chosen.values():
            continue
        taken = sorted({chosen[name] for name in chosen if re.search(override.match, name)})
        reason = (
            f"every tensor that it matches follows an earlier override (number {', '.join(map(str, taken))})"
            if taken
            else f"no tensor matches; the scope has {', '.join(chosen)}"
        )
        raise AllocationError(f"pruning.overrides[{number}] (match {override.match!r}) holds for no tensor: {reason}")
