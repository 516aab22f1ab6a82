"""What a recipe asked of each tensor: its ranking group, pattern and sparsity, from the config that it records.

A recipe comes in, as `recipe.json` holds it, with the shapes of the scope; ranking groups go out, so that what is
exported or verified is held against the same rules that selected it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from ofa.config import PruningConfig
from ofa.pruning.allocation import RankingGroup, ranking_groups
from ofa.sections.schedule import PATTERN


class TargetError(ValueError):
    """A recorded pruning section that cannot be one, or does not fit the model beside it."""


@dataclass(frozen=True)
class Lock:
    """What a recipe says of zeros that were kept."""

    mask_hash: str
    """`MaskSet.hash` of the masks."""
    patterns: dict[str, str]
    """Of each locked tensor, by name; scoped weights that were drawn anew are not among them."""

    def unlocked(self, scope: Iterable[str]) -> list[str]:
        """Names of scoped weights that were drawn anew."""
        return [name for name in scope if name not in self.patterns]


def recorded_pruning(recipe: Mapping[str, Any]) -> PruningConfig | None:
    """The pruning section of a recipe; None if the run did not prune, or the recipe does not say.

    Raises:
        TargetError: it is no pruning section.
    """
    values = (recipe.get("config") or {}).get("pruning")
    if values is None:
        return None
    try:
        return PruningConfig.model_validate(values)
    except ValidationError as error:
        raise TargetError(f"the recipe's pruning section is damaged: {_said(error)}") from None


def recorded_lock(recipe: Mapping[str, Any]) -> Lock | None:
    """The lock section of a recipe; None if no zeros were locked.

    Raises:
        TargetError: it is no lock section.
    """
    values = recipe.get("lock")
    if values is None:
        return None
    hash_, patterns = (
        (values.get(key) for key in ("mask_hash", "patterns")) if isinstance(values, dict) else (None, None)
    )
    if not isinstance(hash_, str) or not isinstance(patterns, dict):
        raise TargetError("the recipe's lock section is damaged: expected mask_hash, a text, and patterns by name")
    wrong = [name for name, text in patterns.items() if not (isinstance(text, str) and re.match(PATTERN, text))]
    if wrong:
        raise TargetError(f"the recipe's lock section is damaged: {patterns[wrong[0]]!r} of {wrong[0]} is no pattern")
    return Lock(hash_, patterns)


def recorded_groups(
    pruning: PruningConfig, shapes: Mapping[str, torch.Size], sparsity: float | None = None
) -> list[RankingGroup]:
    """The ranking groups of a recipe's section; with `sparsity` in place of its own, overrides keeping theirs.

    Raises:
        TargetError: the section does not fit these tensors, or its pattern not this sparsity.
    """
    try:
        if sparsity is not None:
            changed = {"initial_sparsity": 0.0, "sparsity": sparsity}
            pruning = PruningConfig.model_validate({**pruning.model_dump(), **changed})
        return ranking_groups(pruning, shapes)
    except ValidationError as error:
        raise TargetError(f"the recipe's pruning section does not allow sparsity {sparsity}: {_said(error)}") from None
    except ValueError as error:
        raise TargetError(f"the recipe's pruning section does not fit these weights: {error}") from None


def recorded_patterns(recipe: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> dict[str, str]:
    """The pattern of each tensor by name; single weights where the recipe says nothing.

    Raises:
        TargetError: as `recorded_groups`.
    """
    pruning = recorded_pruning(recipe)
    if pruning is None:  # zeros that were locked have the pattern of the base
        lock = recorded_lock(recipe)
        return {name: (lock.patterns if lock else {}).get(name, "unstructured") for name in shapes}
    return {name: group.pattern.text for group in recorded_groups(pruning, shapes) for name in group.names}


def _said(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
