"""Patterns: which weights are dropped together, what dropping them costs, and how many go at a sparsity.

Magnitudes come in, flat, as whole strips of a tensor [rows, columns] in row-major order; one score per unit goes out,
and, for the units that a ranking chose, which weights they drop. A unit is a weight, a group of M neighbours along the
input dimension, or a block. A unit's sum is added in one fixed order, element by element: a library's reduction may add
in another order on another device or for another shard, and then ranks would disagree about equal masks.

A magnitude below zero marks a weight that was dropped for good (`GONE`): it goes first and costs nothing. A unit whose
score is below zero has nothing left to drop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ofa.sections.schedule import parse_pattern

GONE = -1.0
"""The magnitude of a weight that was dropped for good."""


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
        """fp32 [units]: the magnitude that each unit would lose; below zero if it has lost all already, not finite
        if it holds a weight that is not."""
        ...

    def dropped(self, units: Tensor, magnitudes: Tensor, columns: int) -> Tensor:
        """bool [weights]: what goes if the units [units] that are True are dropped."""
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

    def dropped(self, units: Tensor, magnitudes: Tensor, columns: int) -> Tensor:
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
        """The sum, in the order of their indices, of the magnitudes that the group would lose."""
        members = self._members(magnitudes)
        total = torch.zeros_like(members[0])
        for member, goes in zip(members, self._smallest(members), strict=True):
            total += torch.where(goes, member.clamp(min=0.0), 0.0)
        alive = (members >= 0).sum(dim=0)
        total = torch.where(alive <= self.kept, GONE, total)
        # One bad weight makes its group bad, though it would stay; a NaN's sign would make it look gone.
        return torch.where(members.amax(dim=0).isfinite(), total, torch.inf)

    def dropped(self, units: Tensor, magnitudes: Tensor, columns: int) -> Tensor:
        """The M - N smallest of each dropped group."""
        goes = torch.stack(self._smallest(self._members(magnitudes)))
        return (goes & units).t().flatten()

    def torn(self, keep: Tensor) -> int:
        """Groups with neither 0 nor M - N dropped weights."""
        gone = self.size - keep.reshape(-1, self.size).sum(dim=1)
        return int(((gone != 0) & (gone != self.lost)).sum())

    def _members(self, magnitudes: Tensor) -> Tensor:
        """[M, groups]: one contiguous row per place in the group."""
        return magnitudes.view(-1, self.size).t().contiguous()

    def _smallest(self, members: Tensor) -> list[Tensor]:
        """Per place: whether its weight is among the M - N smallest of its group. Every pair is compared once, which
        for the small M of hardware is several times faster than sorting many short rows."""
        before = [torch.zeros(members.shape[1], dtype=torch.int16, device=members.device) for _ in range(self.size)]
        for i in range(self.size):
            for j in range(i + 1, self.size):
                later_is_smaller = members[j] < members[i]
                before[i] += later_is_smaller
                before[j] += ~later_is_smaller
        return [count < self.lost for count in before]


@dataclass(frozen=True)
class Block:
    """Blocks of R outputs by C inputs; a block's score is the sum of its magnitudes, each column added from the top,
    then the columns from the left."""

    rows: int
    columns: int

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
        value = blocks.clamp(min=0.0)
        high = value[:, 0].clone()
        for row in range(1, self.rows):
            high += value[:, row]
        total = high[..., 0].clone()
        for column in range(1, self.columns):
            total += high[..., column]
        total = torch.where((blocks < 0).all(dim=3).all(dim=1), GONE, total)
        return torch.where(total.isfinite(), total, torch.inf).flatten()

    def dropped(self, units: Tensor, magnitudes: Tensor, columns: int) -> Tensor:
        """Every weight of each dropped block."""
        blocks = self._blocks(magnitudes, columns)
        across = blocks.shape[2]
        return units.view(-1, 1, across, 1).expand(blocks.shape).flatten()

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
