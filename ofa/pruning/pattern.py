"""Patterns: which weights are dropped together, what dropping them costs, and how many go at a sparsity.

Magnitudes come in, flat, as whole strips of a tensor [rows, columns] in row-major order; one score per unit goes out,
and, for the units that a ranking chose, which weights they drop. A unit is a weight, a group of M neighbours along the
input dimension, or a block. A unit's sum is added in one fixed order, element by element: a library's reduction may add
in another order on another device or for another shard, and then ranks would disagree about equal masks.

A weight that was dropped for good has a magnitude that its pattern chooses (`gone`): it goes first and costs nothing. A
unit that has nothing left to drop has a score with a minus sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ofa.sections.schedule import parse_pattern


class PatternError(ValueError):
    """A tensor whose shape a pattern does not divide."""


class Pattern(Protocol):
    """What selection asks of a pattern."""

    @property
    def text(self) -> str:
        """As the config writes it."""
        ...

    @property
    def unit(self) -> int:
        """Weights in a unit."""
        ...

    @property
    def lost(self) -> int:
        """Weights that a dropped unit loses."""
        ...

    @property
    def gone(self) -> float:
        """The magnitude that stands for a weight that was dropped for good."""
        ...

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Raise `PatternError` if units do not fill a tensor of this shape."""
        ...

    def strip(self, shape: Sequence[int]) -> int:
        """Weights of the shortest flat run that cuts no unit of a tensor of this shape, wherever such runs follow each
        other from its first weight on. Units are numbered strip by strip."""
        ...

    def reachable(self, sparsity: float) -> float:
        """The sparsity that a config means, as this pattern reaches it exactly."""
        ...

    def units_dropped(self, units: int, sparsity: float) -> int:
        """How many of `units` are dropped for a fraction `sparsity` of zeros."""
        ...

    def scores(self, magnitudes: Tensor, columns: int) -> Tensor:
        """fp32 [units]: the magnitude that each unit would lose; with a minus sign if it has lost all already,
        not finite if it holds a weight that is not."""
        ...

    def dropped(self, units: Tensor, columns: int, magnitudes: Callable[[], Tensor]) -> Tensor:
        """bool [weights]: what goes if the units [units] that are True are dropped; asks for the magnitudes only if
        they decide it."""
        ...

    def torn(self, keep: Tensor) -> int:
        """Units of a keep mask [rows, columns] that are neither whole nor dropped the way this pattern drops."""
        ...


def make_pattern(text: str) -> Pattern:
    """The pattern of `unstructured`, `N:M` or `RxC`."""
    kind, first, second = parse_pattern(text)
    if kind == "n_of_m":
        return NOfM(first, second)
    return Block(first, second) if kind == "block" else Unstructured()


@dataclass(frozen=True)
class Unstructured:
    """Single weights."""

    text = "unstructured"
    unit = 1
    lost = 1
    gone = -1.0

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Every shape fits."""

    def strip(self, shape: Sequence[int]) -> int:
        """One weight."""
        return 1

    def reachable(self, sparsity: float) -> float:
        """Any."""
        return sparsity

    def units_dropped(self, units: int, sparsity: float) -> int:
        """floor(sparsity * units)."""
        return int(sparsity * units)

    def scores(self, magnitudes: Tensor, columns: int) -> Tensor:
        """The magnitudes."""
        return magnitudes

    def dropped(self, units: Tensor, columns: int, magnitudes: Callable[[], Tensor]) -> Tensor:
        """The units."""
        return units

    def torn(self, keep: Tensor) -> int:
        """A weight cannot be torn."""
        return 0


@dataclass(frozen=True)
class NOfM:
    """N weights kept of every M neighbours along the last axis (the inputs of a Linear).

    A dropped unit loses its M - N smallest magnitudes, the lowest index first among equal ones. Under a ramp the groups
    that lose least take the pattern first; at 1 - N/M all have taken it.
    """

    kept: int
    size: int

    gone = -1.0
    """Below every magnitude: among the smallest of its group."""

    @property
    def text(self) -> str:
        """`N:M`."""
        return f"{self.kept}:{self.size}"

    @property
    def unit(self) -> int:
        """M."""
        return self.size

    @property
    def lost(self) -> int:
        """M - N."""
        return self.size - self.kept

    def check(self, name: str, shape: Sequence[int]) -> None:
        """The last axis must be a multiple of M."""
        if shape[-1] % self.size:
            raise _ragged(name, shape, self.text, f"{shape[-1]} inputs a multiple of {self.size}")

    def strip(self, shape: Sequence[int]) -> int:
        """One group: no group crosses the end of a row."""
        return self.size

    def reachable(self, sparsity: float) -> float:
        """Exactly 1 - N/M if the config's decimals mean that."""
        full = self.lost / self.size
        return full if math.isclose(sparsity, full, abs_tol=1e-6) else sparsity

    def units_dropped(self, units: int, sparsity: float) -> int:
        """floor of the groups that make up the fraction; all at 1 - N/M."""
        return min(units, int(units * (sparsity / (self.lost / self.size))))

    def scores(self, magnitudes: Tensor, columns: int) -> Tensor:
        """The sum, from the smallest on, of the magnitudes that the group would lose."""
        ordered = self._smallest_first(self._members(magnitudes))
        total, last = ordered[0].clamp(min=0.0), ordered[self.lost - 1]
        for loss in ordered[1 : self.lost]:
            total += loss.clamp(min=0.0)
        largest = ordered[self.lost]
        for other in ordered[self.lost + 1 :]:
            largest = torch.maximum(largest, other)
        # One bad weight makes its group bad, though it would stay; a NaN's sign would make it look gone.
        return torch.where(largest.isfinite(), torch.where(last < 0, self.gone, total), torch.inf)

    def dropped(self, units: Tensor, columns: int, magnitudes: Callable[[], Tensor]) -> Tensor:
        """The M - N smallest of each dropped group."""
        members = self._members(magnitudes())
        limit = self._smallest_first(members)[self.lost - 1]
        below = members < limit
        ties_left = self.lost - below.sum(dim=0, dtype=torch.int8 if self.size < 128 else torch.int64)
        result = torch.empty(units.numel(), self.size, dtype=torch.bool, device=units.device)
        for place, member in enumerate(members):
            tie = (member == limit).logical_and_(ties_left > 0)
            ties_left -= tie.view(torch.int8)  # a view: a boolean would be copied first
            result[:, place] = tie.logical_or_(below[place]).logical_and_(units)
        return result.flatten()

    def torn(self, keep: Tensor) -> int:
        """Groups with neither 0 nor M - N dropped weights."""
        gone = self.size - keep.reshape(-1, self.size).sum(dim=1)
        return int(((gone != 0) & (gone != self.lost)).sum())

    def _members(self, magnitudes: Tensor) -> Tensor:
        """[M, groups]: one contiguous row per place in the group."""
        groups = magnitudes.view(-1, self.size)
        members = magnitudes.new_empty(self.size, len(groups))
        for place, member in enumerate(members):
            member.copy_(groups[:, place])  # several times as fast as transposing
        return members

    def _smallest_first(self, members: Tensor) -> list[Tensor]:
        """The members with the M - N smallest of each group in front, ascending. Comparing neighbours M - N times over
        is, for the small M of hardware, several times faster than sorting many short rows."""
        values = list(members)
        for place in range(self.lost):
            for upper in range(self.size - 1, place, -1):
                pair = values[upper - 1], values[upper]
                values[upper - 1], values[upper] = torch.minimum(*pair), torch.maximum(*pair)
        return values


@dataclass(frozen=True)
class Block:
    """Blocks of R outputs by C inputs; a block's score is the sum of its magnitudes, each column added from the top,
    then the columns from the left."""

    rows: int
    columns: int

    gone = -0.0
    """It adds nothing, and a sum of nothing else keeps the minus sign."""

    @property
    def text(self) -> str:
        """`RxC`."""
        return f"{self.rows}x{self.columns}"

    @property
    def unit(self) -> int:
        """R * C."""
        return self.rows * self.columns

    @property
    def lost(self) -> int:
        """R * C."""
        return self.unit

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Two axes, each a multiple of the block's."""
        if len(shape) != 2 or shape[0] % self.rows or shape[1] % self.columns:
            wanted = f"two axes, outputs a multiple of {self.rows} and inputs of {self.columns}"
            raise _ragged(name, shape, self.text, wanted)

    def strip(self, shape: Sequence[int]) -> int:
        """A row of blocks; blocks of one row lie in a run by themselves."""
        return self.columns if self.rows == 1 else self.rows * shape[-1]

    def reachable(self, sparsity: float) -> float:
        """Any."""
        return sparsity

    def units_dropped(self, units: int, sparsity: float) -> int:
        """floor(sparsity * units)."""
        return int(sparsity * units)

    def scores(self, magnitudes: Tensor, columns: int) -> Tensor:
        """The sum of each block's magnitudes."""
        blocks = self._blocks(magnitudes, columns)
        high = blocks[:, 0].clone()
        for row in range(1, self.rows):
            high += blocks[:, row]
        total = high[..., 0].clone()
        for column in range(1, self.columns):
            total += high[..., column]
        # What is not finite, and a sum that overflows; a NaN's sign would make it look gone.
        return torch.where(total.isfinite(), total, torch.inf).flatten()

    def dropped(self, units: Tensor, columns: int, magnitudes: Callable[[], Tensor]) -> Tensor:
        """Every weight of each dropped block."""
        width = self.columns if self.rows == 1 else columns
        across = units.view(-1, 1, width // self.columns, 1)
        return across.expand(-1, self.rows, -1, self.columns).flatten()

    def torn(self, keep: Tensor) -> int:
        """Blocks with some weights kept and some dropped."""
        blocks = self._blocks(keep, keep.shape[-1])
        kept = blocks.sum(dim=(1, 3))
        return int(((kept != 0) & (kept != self.unit)).sum())

    def _blocks(self, flat: Tensor, columns: int) -> Tensor:
        """[strips, R, blocks of a strip, C]."""
        width = self.columns if self.rows == 1 else columns
        return flat.reshape(-1, self.rows, width // self.columns, self.columns)


def _ragged(name: str, shape: Sequence[int], pattern: str, wanted: str) -> PatternError:
    return PatternError(
        f"{name} of shape {list(shape)} does not divide into units of pruning pattern {pattern}: it needs {wanted}. "
        f"Choose another pattern, or give this tensor an override"
    )
