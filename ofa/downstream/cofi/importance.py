"""The baseline that learned gates are held against: units are worth what their weights are.

In: the weights of every layer. Out: scores with the interface of those from gates, so that the same
`ofa.downstream.cofi.finalise` meets the same budget. Nothing is learned: what differs between the two is the scores
alone.

A unit's score is the root mean square of its weights, not their norm: heads have a hundred times as many weights as
dimensions, and one threshold is to hold for both. Sublayers get no scores: they die with the last of their units.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from ofa.downstream.cofi.finalise import UnitScores
from ofa.downstream.cofi.gates import Family
from ofa.downstream.cofi.units import LayerLinears
from ofa.models.structure import Sizes


@torch.no_grad()
def magnitude_scores(layers: Iterable[LayerLinears], sizes: Sizes, families: Collection[Family]) -> UnitScores:
    """Scores of heads and intermediate dimensions, where these are among the families.

    Args:
        layers: the weights of each layer's Linears, each looked at once.
        sizes: of the model.
        families: that are pruned. Sublayers follow their units; hidden dimensions cannot be ranked by weights that all
            of them share.

    Returns:
        float64 scores on the device of the weights; a pure function of them.

    Raises:
        ValueError: hidden dimensions are to be pruned, no units are, or a weight has another shape.
    """
    if "hidden" in families or not {"head", "intermediate"} & set(families):
        raise ValueError(
            f"magnitudes rank heads and intermediate dimensions, asked for are {', '.join(families) or 'none'}: leave "
            "hidden dimensions out, and name one of these two"
        )
    heads, dims = zip(*(_mean_squares(linears, sizes, layer) for layer, linears in enumerate(layers)), strict=True)
    return UnitScores(
        head=torch.stack(heads).sqrt() if "head" in families else None,
        intermediate=torch.stack(dims).sqrt() if "intermediate" in families else None,
    )


def _mean_squares(linears: LayerLinears, sizes: Sizes, layer: int) -> tuple[Tensor, Tensor]:
    """[H] and [F]"""
    linears.check(sizes, layer)
    squares = linears.map(lambda weight: weight.double().square())
    of_head = (linears.qkv.numel() + linears.attention_out.numel()) / sizes.heads
    of_dim = (linears.up.numel() + linears.down.numel()) / sizes.intermediate
    return squares.of_heads(sizes).sum(dim=1) / of_head, squares.of_dims(sizes).sum(dim=1) / of_dim
