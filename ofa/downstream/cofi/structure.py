"""Which masks a forward computes under: the part of a CoFi run that changes from step to step.

Not a module, and held outside the one that the engine trains: gates are no parameters of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from ofa.downstream.cofi.masked import MaskedForward
from ofa.models.structure import StructureMasks


class Draws(Protocol):
    """What gives a mask for a micro-batch."""

    def sample(self) -> StructureMasks:
        """Masks, canonical."""
        ...


class Structure:
    """The masks of the moment."""

    def __init__(self, masked: MaskedForward | None, alive: Tensor):
        """
        Args:
            masked: where masks are placed; None: the structure is final and the model has it.
            alive: bool [L], layers that live as long as nothing is masked.
        """
        self.step = 0
        """Of the run, for what depends on it."""
        self.active = False
        """Whether training is under masks."""
        self.source: Draws | None = None
        """Of the masks in training."""
        self._masked, self._alive = masked, alive
        self._fixed: StructureMasks | None = None

    @contextmanager
    def fixed(self, masks: StructureMasks) -> Iterator[None]:
        """Every forward is under these."""
        self._fixed = masks
        try:
            yield
        finally:
            self._fixed = None

    def enter(self, *, training: bool) -> Tensor:
        """Place the masks of the coming forward; returns which layers live, bool [L]."""
        if self._masked is None:
            return self._alive
        masks = self._fixed
        if masks is None and training and self.active and self.source is not None:
            masks = self.source.sample()
        self._masked.set(masks)
        return self._alive if masks is None else masks.alive_layers()
