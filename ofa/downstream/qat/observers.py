"""Ranges of activations: all of a model's in one flat tensor beside it.

A forward adds the extremes of what it sees to those of the step, and nothing else: no value is read by the host, and no
branch depends on one. Once an update is applied, ranks are reduced by one all-reduce of [-min, max], and the moving
average m <- m + c (m_batch - m) takes one step (torch's MovingAverageMinMaxObserver, which takes one per micro-batch).
So ranges are those of the global batch, equal on all ranks, and depend neither on their number nor on accumulation.

Padding does not count: of values [B, S, ...] the tokens are those that the attention mask names; values [B, d] have a
row for each text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ofa import dist
from ofa.downstream.qat.fake_quant import activation_scale


class CalibrationError(ValueError):
    """Ranges that were never measured."""


class Ranges:
    """Lowest and highest value of each place, and the scales that follow from them."""

    def __init__(self, names: Sequence[str], *, constant: float, device: torch.device | str):
        """
        Args:
            names: of the places, for errors and checkpoints.
            constant: c of the moving average.
            device: of the activations.
        """
        self.names = tuple(names)
        self._constant = constant
        number = len(self.names)
        self.values = torch.full((2, number), math.nan, device=device)
        """fp32 [2, n]: lows, highs; NaN where nothing has been seen yet."""
        self.scale = torch.ones(number, device=device)
        self.zero_point = torch.zeros(number, device=device)
        self._seen = torch.full((2, number), -math.inf, device=device)
        self.calibrated = False
        """Whether the values have been measured."""

    def observe(self, place: int, values: Tensor, real: Tensor | None) -> None:
        """Add what one forward sees to the extremes of the step.

        Args:
            place: number of the place.
            values: [B, S, ...] or [B, d].
            real: bool [B, S], which tokens count; None: all.
        """
        low, high = _extremes(values.detach(), real)
        seen = self._seen[:, place]
        seen.copy_(torch.maximum(seen, torch.stack((-low, high)).float()))

    def commit(self, constant: float | None = None) -> None:
        """One step of the moving average on what has been seen since the last one, on all ranks (a collective call).

        Args:
            constant: in place of the usual one.
        """
        dist.max_over_ranks(self._seen)
        batch = torch.stack((-self._seen[0], self._seen[1]))
        moved = self.values + (self._constant if constant is None else constant) * (batch - self.values)
        moved = torch.where(self.values.isnan(), batch, moved)
        self.values.copy_(torch.where(batch.isfinite(), moved, self.values))
        self.discard()
        self._rescale()

    def discard(self) -> None:
        """Forget what has been seen since the last update."""
        self._seen.fill_(-math.inf)

    def begin(self) -> None:
        """Call the values measured, after the commits of a calibration.

        Raises:
            CalibrationError: a place saw nothing.
        """
        measured = self.values.isfinite().all(dim=0).tolist()
        unseen = [name for name, is_there in zip(self.names, measured, strict=True) if not is_there]
        if unseen:
            raise CalibrationError(
                f"calibration saw no finite values at {len(unseen)} of {len(self.names)} places, first {unseen[0]}: "
                "either the model does not use this module, then name it in quantization.exclude, or it has diverged"
            )
        self.calibrated = True

    def check(self) -> None:
        """Refuse scales that mean nothing.

        Raises:
            CalibrationError: calibration never ran.
        """
        if not self.calibrated:
            raise CalibrationError(
                "the activation ranges were never measured, so there are no scales to export: calibration runs before "
                "step quantization.begin_step; train beyond it"
            )

    def give(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use scales that were measured elsewhere, fp32 [n] both."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.calibrated = True

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"names": list(self.names), "values": self.values.clone().cpu(), "calibrated": self.calibrated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue, bit for bit.

        Raises:
            CalibrationError: ranges of other places.
        """
        if state["names"] != list(self.names):
            other = sorted(set(state["names"]) ^ set(self.names))
            raise CalibrationError(
                f"the checkpoint holds ranges of {len(state['names'])} places, this model has {len(self.names)}"
                + (f"; first that only one of them has: {other[0]}" if other else " in another order")
                + ": continue it with the config that it was made with"
            )
        self.values.copy_(state["values"])
        self.calibrated = state["calibrated"]
        self._rescale()

    def _rescale(self) -> None:
        scale, zero_point = activation_scale(*self.values)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)


def _extremes(values: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of what counts, both []."""
    if real is None or values.dim() < 3:
        return values.amin(), values.amax()
    padding, of_token = ~real, tuple(range(2, values.dim()))
    lows, highs = values.amin(dim=of_token), values.amax(dim=of_token)
    return lows.masked_fill(padding, math.inf).amin(), highs.masked_fill(padding, -math.inf).amax()
