"""From soft to hard: the structure of an exact budget.

In: a score for each unit, what units cost, a target sparsity. Out: masks of exactly 0 and 1 whose cost meets the target
within one unit (cofi.md 5.3). The published code rounds each layer's expected number of units and leaves survivors soft
(cofi.md 1.5), so its models miss the target by up to a point, and their masks have to be folded into weights.

Two kinds of units. Coarse ones (sublayers, hidden dimensions) die if their own score is below 0, which is where their
gate is more often closed than open. If what is left is then too cheap, the best of them come back; if it is too dear
whatever else dies, the worst follow. Fine ones (heads, groups of intermediate dimensions) die up to one threshold over
all layers, found by bisection; the last to die may be a head, which leaves room for some of the best dimensions that
died before it: they come back. A sublayer without units is dead (`StructureMasks.canonical`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.gates import FAMILIES, Family
from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.models.structure import Sizes, StructureMasks

COARSE: tuple[Family, ...] = ("attention", "ffn", "hidden")
"""Those whose units govern others, and die or live before these are ranked."""

ROUNDING = 1e-12
"""Share of the total by which a cost may differ from the budget and still be equal to it."""


class BudgetError(ValueError):
    """A target that cannot be reached, or scores that cannot be ranked."""


@dataclass(frozen=True)
class UnitScores:
    """How much a unit deserves to live, comparable across layers and families; None: the family is not pruned.

    Heads and dimensions are compared with each other, so a score is per weight (trained gates are: each closes where
    its worth falls below its cost). Sublayers and hidden dimensions below 0 are dead.
    """

    head: Tensor | None = None
    """[L, H]"""
    intermediate: Tensor | None = None
    """[L, F]"""
    attention: Tensor | None = None
    """[L]"""
    ffn: Tensor | None = None
    """[L]"""
    hidden: Tensor | None = None
    """[d]"""

    @classmethod
    def of(cls, open: OpenProbabilities, families: Collection[Family]) -> UnitScores:
        """Log odds that gates are open: 0 where that is as likely as not.

        Args:
            open: probabilities, not exactly 0 or 1 in these families.
            families: that have gates.
        """
        found = {name: getattr(open, name) for name in families}
        return cls(**{name: torch.logit(values.detach().double()) for name, values in found.items()})

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that are pruned."""
        return tuple(name for name in FAMILIES if getattr(self, name) is not None)


def reachable(costs: Costs, families: Collection[Family]) -> tuple[float, float]:
    """Lowest and highest sparsity of structures in which these families are pruned; one hidden dimension stays."""
    everything = StructureMasks.ones(costs.sizes, hidden="hidden" in families)
    nothing = {name: torch.zeros_like(getattr(everything, name)) for name in families}
    if "hidden" in nothing:
        nothing["hidden"][0] = 1
    lowest, highest = (
        float(costs.sparsity(costs.of(m))) for m in (everything, replace(everything, **nothing).canonical())
    )
    return lowest, highest


def check_target(costs: Costs, families: Collection[Family], target: float) -> None:
    """Refuse a target sparsity that these families cannot reach.

    Raises:
        BudgetError: says the range.
    """
    lowest, highest = reachable(costs, families)
    if not lowest <= target <= highest:
        names = ", ".join(name for name in FAMILIES if name in families)
        remedy = "prune more families" if target > highest else "count weights (params) instead of what is left"
        raise BudgetError(
            f"a sparsity of {target:g} in {costs.measure} is out of reach: pruning {names} gives {lowest:.4f} to "
            f"{highest:.4f}; choose a target in this range, or {remedy}"
        )


def check_multiple(sizes: Sizes, multiple: int) -> None:
    """Refuse a multiple in which intermediate dimensions cannot be kept.

    Raises:
        BudgetError: it does not divide their number; names one that does.
    """
    if multiple < 1 or sizes.intermediate % multiple:
        raise BudgetError(
            f"{sizes.intermediate} intermediate dimensions cannot be kept in multiples of {multiple}; choose a divisor "
            f"of {sizes.intermediate}, such as {_divisor(sizes.intermediate, multiple)}"
        )


def finalise(scores: UnitScores, costs: Costs, target: float, *, multiple: int = 1) -> StructureMasks:
    """The hard structure of a budget; a pure function of its arguments, computed once on the CPU.

    Args:
        scores: of the units of each family that is pruned.
        costs: what counts.
        target: sparsity that is reached, and exceeded by less than the best dead unit of each family in a living
            sublayer costs (where none lives, by less than the last unit that had to die).
        multiple: each layer keeps 0 or a multiple of so many intermediate dimensions, always its best ones; a group is
            worth the mean of its scores.

    Returns:
        Canonical masks of 0.0 and 1.0 (float32, on the device of the scores). Units that cost nothing die first: no
        pull has ever closed their gates. Among equal scores the first die first, by layer, attention before
        feed-forward, then index, as in `ofa.pruning.ranking`.

    Raises:
        BudgetError: the target is out of reach, scores are not finite or not of the model's sizes, or `multiple` does
            not divide the intermediate size.
    """
    _check(scores, costs.sizes, multiple)
    check_target(costs, scores.families, target)
    scores = _free_first(scores, costs)
    fine, coarse = _fine(scores, multiple), _coarse(scores)
    budget = (1 - target) * costs.total

    def masks(dead_coarse: int, dead_fine: int, back: Collection[int] = ()) -> StructureMasks:
        lives = {**coarse.survivors(dead_coarse), **fine.survivors(dead_fine, back)}
        ones = StructureMasks.ones(costs.sizes, device=_device(scores))
        return replace(ones, **{name: mask.float() for name, mask in lives.items()}).canonical()

    def excess(dead_coarse: int, dead_fine: int, back: Collection[int] = ()) -> float:
        """Of the cost over the budget, without what rounding of the budget makes."""
        difference = float(costs.of(masks(dead_coarse, dead_fine, back))) - budget
        return 0.0 if abs(difference) <= ROUNDING * costs.total else difference

    spares = _first(lambda dead: excess(dead, 0) < 0, coarse.number)
    needed = _first(lambda dead: excess(dead, fine.number) <= 0, coarse.number)
    dead_coarse = max(min(coarse.below_zero, spares - 1), min(needed, coarse.number))
    dead_fine = _first(lambda dead: excess(dead_coarse, dead) <= 0, fine.number)
    alive = masks(dead_coarse, dead_fine)
    back = _with_room(fine, dead_fine, alive, lambda also: excess(dead_coarse, dead_fine, also))
    return masks(dead_coarse, dead_fine, back)


def _free_first(scores: UnitScores, costs: Costs) -> UnitScores:
    """With the scores of units that cost nothing below all others of their family."""
    lowered = {}
    for name, free in costs.free().items():
        own = getattr(scores, name)
        if own is not None:
            lowered[name] = torch.where(free.to(own.device), own.min() - 1, own)
    return replace(scores, **lowered)


def _with_room(fine: _Order, dead: int, alive: StructureMasks, excess: Callable[[list[int]], float]) -> list[int]:
    """Ranks of the dead that fit in what the last one left: best first, of each family until one does not fit, and only
    where their sublayer lives, since a sublayer takes time whatever little is in it. What costs nothing stays dead."""
    sublayers = {"head": alive.attention.tolist(), "intermediate": alive.ffn.tolist()}
    back, full, before = [], set(), excess([])
    for rank, (family, layer) in zip(range(dead - 1, -1, -1), reversed(fine.units()[:dead]), strict=True):
        if len(full) == len(fine.families):
            break
        if family in full or not sublayers[family][layer]:
            continue
        now = excess([*back, rank])
        if now > 0:
            full.add(family)
        elif now > before:
            back, before = [*back, rank], now
    return back


class _Order:
    """Units in the order in which they die."""

    def __init__(self, scores: Tensor, places: dict[str, Tensor], device: torch.device):
        """`scores` [n] of what dies together, in the order that decides between equal ones; `places` says of each unit
        of each family at which of them it is."""
        order = torch.sort(scores, stable=True).indices
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(len(order))
        self.below_zero = int((scores < 0).sum())
        self.number = int(scores.isfinite().sum())
        """How many can die."""
        self._ranks = {name: ranks[place].to(device) for name, place in places.items()}
        self._size = len(order)
        self.families = tuple(places)

    def survivors(self, dead: int, back: Collection[int] = ()) -> dict[str, Tensor]:
        """By family, True where a unit lives when the first `dead` have died and those of ranks `back` came back."""
        lives = torch.arange(self._size) >= dead
        lives[list(back)] = True
        return {name: lives.to(ranks.device)[ranks] for name, ranks in self._ranks.items()}

    def units(self) -> list[tuple[str, int]]:
        """(family, layer) of what dies together, in the order of dying; of families with a row a layer."""
        found = {}
        for name, ranks in self._ranks.items():
            for layer, row in enumerate(ranks.tolist()):
                found.update(dict.fromkeys(row, (name, layer)))
        return [found[rank] for rank in sorted(found)]


def _fine(scores: UnitScores, multiple: int) -> _Order:
    """Heads, and groups of the dimensions of a layer that are next to each other in the order of their scores."""
    columns, places, width = [], {}, 0
    if scores.head is not None:
        head = scores.head.detach().cpu().double()
        columns.append(head)
        places["head"] = torch.arange(head.shape[1]).expand_as(head)
        width = head.shape[1]
    if scores.intermediate is not None:
        ordered, order = torch.sort(scores.intermediate.detach().cpu().double(), dim=1, stable=True)
        groups = ordered.unflatten(1, (-1, multiple)).mean(dim=2)
        columns.append(groups.cummax(dim=1).values)  # means of equal scores may fall by a rounding
        number = width + torch.arange(order.shape[1]) // multiple
        places["intermediate"] = torch.empty_like(order).scatter(1, order, number.expand_as(order))
        width += groups.shape[1]
    if not columns:
        return _Order(torch.zeros(0), {}, _device(scores))
    of_layers = torch.cat(columns, dim=1)
    first = width * torch.arange(len(of_layers))[:, None]
    return _Order(of_layers.flatten(), {name: first + place for name, place in places.items()}, _device(scores))


def _coarse(scores: UnitScores) -> _Order:
    """Sublayers, layer by layer, then hidden dimensions, of which the best never dies."""
    found = {name: getattr(scores, name) for name in COARSE if getattr(scores, name) is not None}
    values = {name: score.detach().cpu().double().clone() for name, score in found.items()}
    if "hidden" in values:
        values["hidden"][values["hidden"].argmax()] = float("inf")
    sublayers = [name for name in values if name != "hidden"]
    places = {name: torch.arange(len(values[name])) * len(sublayers) + n for n, name in enumerate(sublayers)}
    flat = [torch.stack([values[name] for name in sublayers], dim=1).flatten()] if sublayers else []
    if "hidden" in values:
        places["hidden"] = sum(map(len, flat)) + torch.arange(len(values["hidden"]))
        flat.append(values["hidden"])
    return _Order(torch.cat(flat) if flat else torch.zeros(0), places, _device(scores))


def _first(holds: Callable[[int], bool], last: int) -> int:
    """The smallest of 0 .. last for which `holds`, which stays true once it is; last + 1 if it never is."""
    low, high = 0, last + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _device(scores: UnitScores) -> torch.device:
    return next((getattr(scores, name).device for name in scores.families), torch.device("cpu"))


def _check(scores: UnitScores, sizes: Sizes, multiple: int) -> None:
    ones = StructureMasks.ones(sizes, hidden=True)
    for name in scores.families:
        values, expected = getattr(scores, name), getattr(ones, name).shape
        if values.shape != expected:
            raise BudgetError(f"scores of {name} are {list(values.shape)}, expected {list(expected)} of this model")
        if not bool(values.isfinite().all()):
            strange = int((~values.isfinite()).sum())
            raise BudgetError(f"{strange} scores of {name} are not finite, so they cannot be ranked")
    check_multiple(sizes, multiple)


def _divisor(number: int, near: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(1, near))
