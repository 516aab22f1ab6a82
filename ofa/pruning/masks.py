"""Selection: scores in, boolean keep masks out.

A keep mask has the shape of its weight; True means that the weight lives. Scores are ranked in fp32: ranking rounded
bf16 magnitudes would tie tens of thousands of weights at the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

DROPPED = -1.0
"""A score below every magnitude: a weight with it is dropped before any other."""


def dropped_count(numel: int, sparsity: float) -> int:
    """floor(sparsity * numel): how many of `numel` weights are zero at `sparsity`."""
    return int(sparsity * numel)


def keep_largest(scores: Tensor, sparsity: float, *, ties: str = "index") -> Tensor:
    """Keep all but the floor(sparsity * numel) smallest scores of one tensor.

    Args:
        scores: any shape, fp32, finite.
        sparsity: fraction to drop, in [0, 1).
        ties: `index` drops the lowest flat indices among scores equal to the threshold, so that the count is exact and
            the same everywhere; `drop_all` keeps strictly larger scores only, as the published code does, and may
            drop more.

    Returns:
        Boolean keep mask of the same shape.

    Raises:
        ValueError: a score is not finite, or they are not fp32.
    """
    if scores.dtype != torch.float32:
        raise ValueError(f"scores must be fp32 so that ranks are exact, found {scores.dtype}")
    flat = scores.flatten()
    count = dropped_count(flat.numel(), sparsity)
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("cannot rank weights that are not finite: the run has diverged")
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    keep = flat > threshold
    if ties == "index":
        surplus = flat.numel() - count - int(keep.sum())
        at_threshold = (flat == threshold).nonzero().squeeze(1)
        keep[at_threshold[at_threshold.numel() - surplus :]] = True
    return keep.view_as(scores)
