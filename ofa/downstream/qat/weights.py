"""Scales of weights: measured from the live weight in every forward, or given.

A weight is symmetric, so its largest magnitude is all that is measured, for each row (a Linear's output) or for all of
it. `widest` keeps the largest that was ever seen in training (the published MinMaxObserver, a running extreme that
never shrinks); ranks hold the same weights, so they keep the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ofa.config import QuantizationConfig
from ofa.downstream.qat.fake_quant import weight_scale
from ofa.downstream.qat.prepare import Sites


class MeasuredScales:
    """From the weights; see `ofa.downstream.qat.quantisers.WeightScales`."""

    given = False

    def __init__(self, settings: QuantizationConfig, sites: Sites, device: torch.device | str):
        self._per_row = settings.weights == "per_channel"
        self._divisor = settings.weight_divisor
        self._widest: dict[str, Tensor] = {}
        if settings.weight_range == "widest":
            rows = {site.name: site.module.out_features for site in sites.linears}
            rows |= {name: table.num_embeddings for name, table in sites.tables.items()}
            self._widest = {
                name: torch.zeros(number if self._per_row else (), device=device) for name, number in rows.items()
            }

    def of(self, name: str, weight: Tensor, *, observing: bool) -> Tensor:
        """From the weight as it is, and what it has been."""
        largest = _largest(weight.detach(), per_row=self._per_row)
        widest = self._widest.get(name)
        if widest is not None:
            largest = torch.maximum(largest, widest)
            if observing:
                widest.copy_(largest)
        return weight_scale(largest, self._divisor)

    def state_dict(self) -> dict[str, Any]:
        """The widest magnitudes."""
        return {name: widest.clone().cpu() for name, widest in self._widest.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        for name, widest in self._widest.items():
            widest.copy_(state[name])


class GivenScales:
    """From a file."""

    given = True

    def __init__(self, scales: Mapping[str, Tensor]):
        self._scales = scales

    def of(self, name: str, weight: Tensor, *, observing: bool) -> Tensor:
        """As given, whatever the weight is."""
        return self._scales[name]

    def state_dict(self) -> dict[str, Any]:
        """Nothing is measured."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is."""


def _largest(weight: Tensor, *, per_row: bool) -> Tensor:
    """fp32 [rows] or []: the largest magnitude."""
    dims = (1,) if per_row else (0, 1)
    return torch.maximum(weight.amax(dims), weight.amin(dims).neg()).float()
