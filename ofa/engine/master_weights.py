"""One view of the copies of every weight, whatever the ZeRO stage: what pruning, export and rewinding ask for.

Only `gather` and `spans` (once) talk to other ranks; everything else writes what lies on this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.engine.copies import MOMENTS, copies_of
from ofa.engine.process import deepspeed
from ofa.pruning.pruner import Span


class MasterWeights:
    """The copies of each scoped weight; implements `ofa.pruning.pruner.Weights`."""

    def __init__(self, engine: Any, scoped: Mapping[str, nn.Parameter]):
        """
        Args:
            engine: DeepSpeed's.
            scoped: prunable parameters by the name that masks use.
        """
        self._copies = copies_of(engine)
        self._scoped = scoped
        self._partitioned = engine.zero_optimization_stage() > 0
        self._spans: list[list[Span]] | None = None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Of each scoped weight, also where this rank holds a part of it."""
        return {name: self._copies.shape(parameter) for name, parameter in self._scoped.items()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((parameter.device for parameter in self._scoped.values()), dist.device())

    def spans(self) -> list[list[Span]]:
        """Which scoped masters each rank reads, by rank; a collective call the first time."""
        if self._spans is None:
            own = [Span(name, held.start, held.stop) for name, held in self._readable()]
            self._spans = dist.gather_objects(own)
        return self._spans

    def masters(self) -> list[Tensor]:
        """fp32 masters of this rank's spans, each flat; views."""
        return [held.master for _, held in self._readable()]

    def full_master(self, name: str) -> Tensor:
        """fp32 master of one scoped weight, whole, on every rank (a collective call)."""
        return self.gather(self._scoped[name])

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """fp32 master of any trained parameter, whole, on every rank (a collective call)."""
        return self._copies.gather(parameter)

    def full_copies(self, name: str) -> list[Tensor]:
        """Master and moments of one scoped weight, whole, on every rank (a collective call)."""
        parameter = self._scoped[name]
        if not self._partitioned:
            held = self._copies.held(parameter)
            assert held is not None
            return [copy.view(parameter.shape) for copy in (held.master, *held.moments)]
        moments = (deepspeed.utils.safe_get_full_optimizer_state(parameter, key) for key in MOMENTS)
        return [self.gather(parameter), *(moment for moment in moments if moment is not None)]

    @torch.no_grad()
    def mask_live(self, keep: Mapping[str, Tensor]) -> None:
        """live *= keep."""
        for name, mask in keep.items():
            for start, values in self._copies.live(self._scoped[name]):
                values.mul_(_part(mask, start, values))

    @torch.no_grad()
    def zero_dropped(self, keep: Mapping[str, Tensor]) -> None:
        """+0.0 in live weight, master and moments where keep is False."""
        for name, mask in keep.items():
            for start, values in self._copies.live(self._scoped[name]):
                values.masked_fill_(~_part(mask, start, values), 0.0)
            held = self._copies.held(self._scoped[name])
            if held is not None:
                dropped = ~_part(mask, held.start, held.master)
                for copy in (held.master, *held.moments):
                    copy.masked_fill_(dropped, 0.0)

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Master and live copies of any trained parameter = a whole fp32 value, rounded to the live precision."""
        for start, values in self._copies.live(parameter):
            values.copy_(_part(value, start, values))
        held = self._copies.held(parameter)
        if held is not None:
            held.master.copy_(_part(value, held.start, held.master))

    def _readable(self):
        for name, parameter in self._scoped.items():
            held = self._copies.read(parameter)
            if held is not None:
                yield name, held


def _part(whole: Tensor, start: int, like: Tensor) -> Tensor:
    """The range of a whole tensor that another one, flat, stands for."""
    return whole.reshape(-1).narrow(0, start, like.numel())
