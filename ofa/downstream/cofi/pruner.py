"""What a CoFi run asks of the training loop's pruner: masks of the moment, gates updated once a step.

Two ways to find a structure, with one interface. Learned gates (CoFi): masks are drawn for every micro-batch, and after
the engine's update gates and multipliers have theirs, outside the engine. Magnitude: from time to time the units of the
smallest weights are masked, as many as the target says. Weights that a lock keeps at zero are left to its own pruner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.finalise import UnitScores, finalise
from ofa.downstream.cofi.gates import Gates
from ofa.downstream.cofi.lagrangian import GateOptimizer, Lagrangian
from ofa.downstream.cofi.structure import Structure
from ofa.models.structure import StructureMasks
from ofa.pruning.pruner import MaskChurn, Pruner
from ofa.recipe import Knobs


class Search(Protocol):
    """A way to find a structure."""

    def refresh(self, target: float) -> None:
        """Before an update under masks towards this sparsity (a collective call)."""
        ...

    def update(self, target: float) -> None:
        """After the engine has applied its own (a collective call)."""
        ...

    def discard(self) -> None:
        """The engine has skipped its update."""
        ...

    def hard(self, target: float) -> StructureMasks:
        """The structure of 0 and 1 of that sparsity, as things stand (a collective call)."""
        ...

    def for_the_line(self) -> dict[str, float]:
        """What a metrics line says of it; reads the device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from it."""
        ...


class LearnedGates:
    """Hard-concrete gates and their Lagrangian."""

    def __init__(
        self,
        gates: Gates,
        lagrangian: Lagrangian,
        optimizer: GateOptimizer,
        costs: Costs,
        *,
        scale: float,
        multiple: int,
    ):
        """
        Args:
            gates: on their device.
            lagrangian: its multipliers are shown.
            optimizer: of both.
            costs: that the target is a share of.
            scale: what gradients of gates are too large by, see `GateOptimizer.step`.
            multiple: of intermediate dimensions in a final structure.
        """
        self._gates, self._lagrangian, self._optimizer, self._costs = gates, lagrangian, optimizer, costs
        self._scale, self._multiple = scale, multiple
        self._last: Mapping[str, Tensor | float] = {}

    def refresh(self, target: float) -> None:
        """Masks are drawn in the forward."""

    def update(self, target: float) -> None:
        """One step of gates and multipliers."""
        self._last = self._optimizer.step(target, self._scale)

    def discard(self) -> None:
        """Forget gradients."""
        self._optimizer.discard()

    def hard(self, target: float) -> StructureMasks:
        """The structure that the gates are nearest to."""
        scores = UnitScores.of(self._gates.open_probabilities(), self._gates.families)
        return finalise(scores, self._costs, target, multiple=self._multiple)

    def for_the_line(self) -> dict[str, float]:
        """Expected sparsity, the Lagrangian and its multipliers."""
        multipliers = self._lagrangian.multipliers.tolist()
        numbers = {name: float(value) for name, value in self._last.items()}
        return numbers | {"lambda_1": multipliers[0], "lambda_2": multipliers[1]}

    def state_dict(self) -> dict[str, Any]:
        """Gates, multipliers, moments."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue, bit for bit."""
        self._optimizer.load_state_dict(state)


class MagnitudeSearch:
    """Units of the smallest weights: the baseline."""

    def __init__(
        self,
        scores: Callable[[], UnitScores],
        costs: Costs,
        *,
        steps: frozenset[int],
        multiple: int,
        now: Callable[[], int],
        device: torch.device,
    ):
        """
        Args:
            scores: of all units, from the weights as they are (a collective call).
            costs: that the target is a share of.
            steps: at which units are chosen; the choice of the last one is final, for what is dead then is trained no
                more and would be ranked by weights that stand still.
            multiple: of intermediate dimensions.
            now: the step.
            device: where masks are wanted.
        """
        self._device = device
        self._scores, self._costs, self._steps, self._multiple, self._now = scores, costs, steps, multiple, now
        self._masks: StructureMasks | None = None

    def sample(self) -> StructureMasks:
        """The masks in force; there is no chance in them."""
        assert self._masks is not None, "masks are chosen before the first update under them"
        return self._masks

    def refresh(self, target: float) -> None:
        """Choose anew, where it is time."""
        if self._masks is None or self._now() in self._steps:
            self._masks = self._chosen(target)

    def update(self, target: float) -> None:
        """Nothing is learned."""

    def discard(self) -> None:
        """Nothing was."""

    def hard(self, target: float) -> StructureMasks:
        """The final structure once it is chosen; before, that of today's weights."""
        if self._masks is not None and self._now() >= max(self._steps):
            return self._masks
        return self._chosen(target)

    def _chosen(self, target: float) -> StructureMasks:
        return finalise(self._scores(), self._costs, target, multiple=self._multiple).to(self._device)

    def for_the_line(self) -> dict[str, float]:
        """Nothing besides."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The masks in force."""
        return {} if self._masks is None else vars(self._masks.to("cpu"))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue under the same masks."""
        self._masks = StructureMasks(**state).to(self._device) if state else None


class StructurePruner:
    """The loop's pruner in all stages."""

    def __init__(
        self,
        lock: Pruner,
        search: Search | None,
        structure: Structure,
        *,
        begin: int = 0,
        restart: Callable[[], None] = lambda: None,
    ):
        """
        Args:
            lock: what keeps zeros of a sparse base, or `NoPruner`.
            search: finds the structure; None: it is final.
            structure: the masks of the moment.
            begin: step at which masks begin.
            restart: lets the engine's optimizer start anew, as the published code does there.
        """
        self._lock, self._search, self._structure = lock, search, structure
        self._begin, self._restart = begin, restart
        self._target = 0.0

    @property
    def keep(self) -> Mapping[str, Tensor]:
        """Of the lock."""
        return self._lock.keep

    def before_step(self, knobs: Knobs) -> MaskChurn | None:
        """Set the scene of the coming update."""
        self._structure.step = knobs.step
        self._structure.active = self._search is not None and knobs.step >= self._begin
        self._target = knobs.sparsity
        if knobs.step == self._begin:
            self._restart()
        if self._search is not None and self._structure.active:
            self._search.refresh(self._target)
        return self._lock.before_step(knobs)

    def after_step(self, coming: Knobs) -> None:
        """Zeros of the lock, then the gates' own update."""
        self._lock.after_step(coming)
        if self._search is not None and self._structure.active:
            self._search.update(self._target)

    def enforce(self) -> None:
        """The engine has skipped its update: so do gates."""
        self._lock.enforce()
        if self._search is not None:
            self._search.discard()

    def hard(self, target: float) -> StructureMasks:
        """The structure of 0 and 1 of that sparsity, as things stand (a collective call)."""
        assert self._search is not None, "the structure is final"
        return self._search.hard(target)

    def for_the_line(self) -> dict[str, float]:
        """What a metrics line says of the search."""
        return {} if self._search is None else self._search.for_the_line()

    def state_dict(self) -> dict[str, Any]:
        """Of the lock and of the search; of the lock alone where the structure is final."""
        if self._search is None:
            return self._lock.state_dict()
        return {"lock": self._lock.state_dict(), "search": self._search.state_dict()}

    def load_state_dict(self, state: dict[str, Any], knobs: Knobs) -> None:
        """Continue."""
        if self._search is None:
            self._lock.load_state_dict(state, knobs)
            return
        self._lock.load_state_dict(state["lock"], knobs)
        self._search.load_state_dict(state["search"])
