"""Patterns: which weights are dropped together, what dropping them costs, and how many go at a sparsity.

Magnitudes come in, flat, as whole strips of a tensor [rows, columns] in row-major order; one score per unit goes out,
and which weights stay even if their unit is dropped. A unit is a weight, a group of M neighbours along the input
dimension, or a block. A unit's sum is added in one fixed order, element by element: a library's reduction may add in
another order on another device or for another shard, and then ranks would disagree about equal masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from ofa.pruning.neighbours import BELOW_ALL, MOST, lose_smallest, on_every
from ofa.sections.schedule import parse_pattern

GONE = BELOW_ALL
"""The magnitude of a weight that was dropped for good, -0.0: it goes first and costs nothing, and the score of a unit
that has nothing left to lose keeps the minus sign."""


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

    def scores(self, magnitudes: Tensor, columns: int, spared: Tensor) -> Tensor:
        """fp32 [units]: the magnitude that each unit would lose; with a minus sign if it has lost all already,
        not finite if it holds a weight that is not. Sets in `spared`, bool [weights] of False, what would stay."""
        ...

    def spread(self, units: Tensor, columns: int) -> Tensor:
        """bool [weights]: each unit's bool [units] on all of its weights."""
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
        return _floor(sparsity, units)

    def scores(self, magnitudes: Tensor, columns: int, spared: Tensor) -> Tensor:
        """The magnitudes."""
        return magnitudes

    def spread(self, units: Tensor, columns: int) -> Tensor:
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
        """The last axis must be a multiple of M, and M at most 128."""
        if self.size > MOST:
            raise PatternError(f"{name} cannot take pruning pattern {self.text}: choose groups of at most {MOST}")
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
        if sparsity >= self.lost / self.size:
            return units
        return _floor(sparsity, units * Fraction(self.size, self.lost))

    def scores(self, magnitudes: Tensor, columns: int, spared: Tensor) -> Tensor:
        """The sum, from the smallest on, of the magnitudes that the group would lose; the N largest are spared."""
        return lose_smallest(magnitudes, self.size, self.kept, spared)

    def spread(self, units: Tensor, columns: int) -> Tensor:
        """Each group's, M times."""
        return on_every(units, self.size)

    def torn(self, keep: Tensor) -> int:
        """Groups with neither 0 nor M - N dropped weights."""
        gone = self.size - keep.reshape(-1, self.size).sum(dim=1)
        return int(((gone != 0) & (gone != self.lost)).sum())


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
        return _floor(sparsity, units)

    def scores(self, magnitudes: Tensor, columns: int, spared: Tensor) -> Tensor:
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

    def spread(self, units: Tensor, columns: int) -> Tensor:
        """Each block's on all of its weights."""
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


def _floor(share: float, units: int | Fraction) -> int:
    """Of share * units, where the share is the decimal number that a config writes: 0.7 of 85,524,480 is 59,867,136,
    and one less by the product of floats."""
    return math.floor(Fraction(str(share)) * units)


def _ragged(name: str, shape: Sequence[int], pattern: str, wanted: str) -> PatternError:
    return PatternError(
        f"{name} of shape {list(shape)} does not divide into units of pruning pattern {pattern}: it needs {wanted}. "
        f"Choose another pattern, or give this tensor an override"
    )
