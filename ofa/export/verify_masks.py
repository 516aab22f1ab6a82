"""Masks and zeros held against what was asked for: tensor by tensor, unit by unit, and in total.

Comes in: masks, weights and counts as files hold them, and the recipe. Goes out: problems, each with a fixed name. The
selection is not made again: the masters that it ranked are not in the folder, so what can be checked is its shape.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ofa.export.count import TensorCount
from ofa.export.masks_file import MASKS_FILE
from ofa.export.recipe_file import RECIPE_FILE
from ofa.export.stage import Stage, percent, recorded_stage
from ofa.export.targets import Lock, recorded_groups, recorded_patterns, recorded_pruning
from ofa.pruning.allocation import RankingGroup
from ofa.pruning.lock import CHANCE
from ofa.pruning.mask_set import MaskSet
from ofa.pruning.pattern import PatternError, make_pattern


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """Its fixed name, for example `not-zeroed`."""
    where: str
    """A tensor or a file."""
    what: str
    """What was found and what was expected."""


@dataclass(frozen=True)
class Expectation:
    """How many zeros there must be."""

    groups: list[RankingGroup]
    """Each with its final sparsity, which it must have by itself."""
    more_is_fine: bool
    """Every weight that ties with the largest dropped one was dropped too."""
    asked: float | None = None
    """The sparsity that was given; None: the recipe's own."""
    stage: Stage | None = None
    """How far the run was, if the recipe says it."""

    def surplus(self, counts: Mapping[str, TensorCount]) -> dict[str, int]:
        """Zeros beyond the expected ones, by name, of each tensor that is ranked by itself."""
        shapes = _shapes(counts)
        return {
            group.names[0]: counts[group.names[0]].zeros - group.zeros(shapes, group.final)
            for group in self.groups
            if len(group.names) == 1
        }


def expectation(
    recipe: Mapping[str, Any] | None, counts: Mapping[str, TensorCount], sparsity: float | None
) -> Expectation | None:
    """What to hold the zeros against: a sparsity if one is given, as the recipe's pattern and allocation divide it (one
    fraction in each tensor where there is no recipe, or zeros were locked); else the recipe's own, if its masks are
    final. `counts` are of the tensors that have, or should have, a mask.

    Raises:
        TargetError: the recipe's pruning section is damaged, or does not fit these tensors or this sparsity.
    """
    pruning, stage = recorded_pruning(recipe or {}), recorded_stage(recipe or {})
    shapes = _shapes(counts)
    if pruning is None:
        if sparsity is None:
            return None
        patterns = recorded_patterns(recipe or {}, shapes)
        alone = [RankingGroup((name,), make_pattern(patterns[name]), sparsity, sparsity) for name in shapes]
        return Expectation(alone, False, sparsity, stage)
    if sparsity is None and not (stage and stage.pruning_ended):
        return None
    return Expectation(recorded_groups(pruning, shapes, sparsity), pruning.ties == "drop_all", sparsity, stage)


def check_masks(
    masks: Mapping[str, Tensor], tensors: Mapping[str, Tensor], scope: list[str], drawn: Collection[str] = ()
) -> Iterator[Problem]:
    """A mask for every scoped tensor and no other; weights zero exactly where it says so.

    Args:
        masks: boolean keep masks by name.
        tensors: the weights.
        scope: the model's prunable weights, by name.
        drawn: those of them that need no mask, because the base whose zeros were locked did not have them.
    """
    for name in sorted(masks.keys() - set(scope)):
        yield Problem("mask-outside-scope", name, "has a mask, but is no prunable weight of this model")
    for name in (name for name in scope if name in tensors):
        if name not in masks and name in drawn:
            continue
        if name not in masks:
            yield Problem("missing-mask", name, f"{MASKS_FILE} has no mask of this weight")
            continue
        keep, weight = masks[name], tensors[name]
        if keep.shape != weight.shape:
            yield Problem("mask-shape", name, f"mask {list(keep.shape)}, weight {list(weight.shape)}")
            continue
        alive = int(((weight != 0) & ~keep).sum())
        dead = int(((weight == 0) & keep).sum())
        if alive:
            yield Problem("not-zeroed", name, f"{alive} weights are not zero although their mask drops them")
        if dead:
            yield Problem("zero-not-dropped", name, f"{dead} weights are zero although their mask keeps them")


def check_lock(lock: Lock, masks: Mapping[str, Tensor]) -> Iterator[Problem]:
    """The masks are those that the recipe says were locked: their names, and the hash over their bits.

    A locked tensor without a mask is a `missing-mask` already.
    """
    for name in sorted(masks.keys() - lock.patterns.keys()):
        yield Problem("lock-disagrees", name, f"{MASKS_FILE} has a mask, {RECIPE_FILE} does not say that it was locked")
    found = MaskSet.holding(masks).hash()
    if found != lock.mask_hash:
        what = f"its masks hash to {found[:16]}, {RECIPE_FILE} says that {lock.mask_hash[:16]} were locked"
        yield Problem("lock-disagrees", MASKS_FILE, what)


def check_patterns(masks: Mapping[str, Tensor], patterns: Mapping[str, str]) -> Iterator[Problem]:
    """Every unit of every mask is whole or dropped the way its pattern drops."""
    for name, keep in masks.items():
        pattern = make_pattern(patterns[name])
        try:
            pattern.check(name, keep.shape)
        except PatternError as error:
            yield Problem("broken-pattern", name, str(error))
            continue
        torn = pattern.torn(keep)
        if torn:
            what = f"{torn} of {keep.numel() // pattern.unit} units of pattern {pattern.text} are dropped only in part"
            yield Problem("broken-pattern", name, what)


def check_zeros(expected: Expectation, counts: Mapping[str, TensorCount], *, exact: bool) -> Iterator[Problem]:
    """The right number of zeros in each group; where no mask says which zeros were meant, one more or less a tensor.

    A cause that explains every tensor is one problem in their place.
    """
    wrong = list(_wrong_groups(expected, counts, exact=exact))
    cause = _common_cause(expected, counts) if wrong else None
    yield from [Problem("wrong-count", f"{len(counts)} tensors", cause)] if cause else wrong


def _wrong_groups(expected: Expectation, counts: Mapping[str, TensorCount], *, exact: bool) -> Iterator[Problem]:
    shapes = _shapes(counts)
    for group in expected.groups:
        zeros, wanted = sum(counts[name].zeros for name in group.names), group.zeros(shapes, group.final)
        surplus, tolerance = zeros - wanted, 0 if exact else len(group.names)
        if surplus < -tolerance or (surplus > tolerance and not expected.more_is_fine):
            weights = sum(math.prod(shapes[name]) for name in group.names)
            where = group.names[0] if len(group.names) == 1 else f"{len(group.names)} tensors ranked together"
            what = f"{zeros} zeros, expected {wanted} of {weights} ({surplus:+d})"
            yield Problem("wrong-count", where, what)


def _common_cause(expected: Expectation, counts: Mapping[str, TensorCount]) -> str | None:
    """Why all tensors have too few zeros, if it is a model that was not pruned, or not yet as far."""
    shapes, stage = _shapes(counts), expected.stage
    zeros, weights = sum(found.zeros for found in counts.values()), sum(found.numel for found in counts.values())
    wanted = sum(group.zeros(shapes, group.final) for group in expected.groups)
    asked = percent(wanted / weights if expected.asked is None else expected.asked, 4)
    if stage and stage.pruning and not stage.pruning_ended:
        if zeros >= wanted or (expected.asked or 0.0) > stage.pruning.sparsity:
            return None
        return (
            f"{percent(zeros / weights)} zeros, expected {asked}: pruning had not ended at {stage.place}; export a "
            "later checkpoint, or leave --expect-sparsity out"
        )
    if zeros > CHANCE * min(weights, wanted):
        return None
    why = "; its run does not prune, by its recipe" if stage and not stage.pruning else ""
    return f"dense: {zeros} of {weights} weights are zero, expected {asked}{why}"


def _shapes(counts: Mapping[str, TensorCount]) -> dict[str, torch.Size]:
    return {name: torch.Size(found.shape) for name, found in counts.items()}
