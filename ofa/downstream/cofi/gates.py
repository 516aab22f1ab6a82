"""Gates of structured pruning: one hard concrete distribution a unit, whose parameters are trained with the weights.

In: how many units of each family there are, and which families have gates. Out: masks that are drawn anew for every
micro-batch and through which gradients flow, and the probabilities that units live; `ofa.downstream.cofi.finalise`
makes masks without chance of these.

The parameters of all families are one flat fp32 tensor, so that one reduction over ranks and one optimizer state serve
them. They stay fp32 whatever the model is cast to: between 4 and 8 bf16 has steps of 0.03, and an update of 0.01 would
be lost. A family without gates has mask 1 throughout (the published code fails unless all have gates).

    u ~ U(0, 1)    s = sigmoid((logit(u) + log_alpha) / beta)    z = clip(s (r - l) + l, 0, 1)
    P(z != 0) = sigmoid(log_alpha - beta log(-l / r))

Louizos, Welling and Kingma 2018, section 3; constants of CoFi (Xia et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.models.structure import Sizes, StructureMasks

Family = Literal["head", "intermediate", "attention", "ffn", "hidden"]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""In the order that their parameters have in the flat tensor."""

BETA, LEFT, RIGHT = 2 / 3, -0.1, 1.1
"""Temperature, and the ends to which (0, 1) is stretched: l and r above."""
EDGE = 1e-6
"""Uniform numbers keep this distance from 0 and 1, whose logits are infinite."""

START_MEAN, START_NOISE = 4.5, 0.01
"""Of log_alpha: nearly everything is open (expected sparsity below 1 %), and units of a row differ."""
LOWEST, HIGHEST = -11.0, math.log(100)
"""Range of log_alpha. Above, as published: P(z != 0) = 0.998. Below, the published -log(100) leaves every unit a
probability of 0.047, and so 145 of 3072 dimensions alive in each layer; at -11 a row of up to 6000 can die whole."""


class Gates(nn.Module):
    """Trainable gates of some families of units."""

    def __init__(
        self,
        sizes: Sizes,
        families: Collection[Family] = ("head", "intermediate", "attention", "ffn"),
        *,
        mean: float = START_MEAN,
        noise: float = START_NOISE,
    ):
        """Start from log_alpha ~ N(mean, noise^2), drawn from torch's global generator.

        Args:
            sizes: of the model.
            families: that have gates; the units of the others live.
            mean, noise: of the start.

        Raises:
            ValueError: no family, or an unknown one.
        """
        super().__init__()
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown or not families:
            raise ValueError(
                f"gates for {', '.join(unknown) or 'no family'}: expected one or more of {', '.join(FAMILIES)}"
            )
        self._shapes = _shapes(sizes)
        self.families: tuple[Family, ...] = tuple(family for family in FAMILIES if family in families)
        count = sum(math.prod(self._shapes[family]) for family in self.families)
        self.log_alpha = nn.Parameter(mean + noise * torch.randn(count, dtype=torch.float32))

    def of_families(self) -> dict[Family, Tensor]:
        """Views of log_alpha by family, in the shapes of `StructureMasks`; without those that have no gates."""
        return self._split(self.log_alpha)

    def sample(self) -> StructureMasks:
        """Masks for one micro-batch, canonical, drawn from torch's global generator of the gates' device; gradients
        flow to log_alpha from masks that are neither 0 nor 1."""
        masks = hard_concrete(self.log_alpha, torch.rand_like(self.log_alpha))
        return StructureMasks(**self._complete(masks)).canonical()

    def open_probabilities(self) -> OpenProbabilities:
        """P(z != 0) of every unit; differentiable."""
        return OpenProbabilities(**self._complete(open_probability(self.log_alpha)))

    @torch.no_grad()
    def clamp_(self, lowest: float = LOWEST, highest: float = HIGHEST) -> None:
        """Bring log_alpha back into its range, as after every update."""
        self.log_alpha.clamp_(lowest, highest)

    def _split(self, flat: Tensor) -> dict[Family, Tensor]:
        shapes = [self._shapes[family] for family in self.families]
        pieces = flat.split([math.prod(shape) for shape in shapes])
        return {family: piece.view(shape) for family, piece, shape in zip(self.families, pieces, shapes, strict=True)}

    def _complete(self, flat: Tensor) -> dict[str, Any]:
        """Values of all families: ones where a family has no gates, None for hidden dimensions."""
        split = self._split(flat)
        ones = {family: flat.new_ones(shape) for family, shape in self._shapes.items() if family != "hidden"}
        return {"hidden": None, **ones, **split}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gates:
        """Follow `to(device)`, and nothing that changes the dtype, such as `bfloat16()` of a module around this."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def hard_concrete(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Masks in [0, 1] from numbers in [0, 1), of the same shape; exactly 0 and 1 with probability above 0."""
    stretched = torch.sigmoid((torch.logit(uniform, eps=EDGE) + log_alpha) / BETA) * (RIGHT - LEFT) + LEFT
    return stretched.clamp(0.0, 1.0)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z != 0) of a hard concrete variable."""
    return torch.sigmoid(log_alpha - BETA * math.log(-LEFT / RIGHT))


def _shapes(sizes: Sizes) -> dict[Family, tuple[int, ...]]:
    return {
        "head": (sizes.layers, sizes.heads),
        "intermediate": (sizes.layers, sizes.intermediate),
        "attention": (sizes.layers,),
        "ffn": (sizes.layers,),
        "hidden": (sizes.hidden,),
    }
