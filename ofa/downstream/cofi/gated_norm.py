"""LayerNorm of a model whose hidden dimensions and sublayers may be masked.

In: a stock `nn.LayerNorm` that stands in a model. Out: the same module, of another class until it is given back.

Hidden dimensions: mean and variance are those of the dimensions that live, as they will be once the others are cut
away. Dead ones are zeros, which an ordinary LayerNorm would count in (768 dimensions with 4 zeros differ by 0.01, with
256 by 0.9). Sublayers: where its mask is exactly 0 a post-norm sublayer gives what it was given, norm left out; its
residual sum, the norm's input, then is just that. Nothing here branches on a value, so that nothing waits for the
device and all ranks run the same modules.

The road not taken is a new module in the old one's place: whoever holds that one, such as DeepSpeed's hooks, would go
on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class NormMasks:
    """Masks of one norm at the moment."""

    hidden: Tensor | None = None
    """[d] in [0, 1]: the output is multiplied by it, and where it is 0 the input does not count. None: as stock."""
    sublayer: Tensor | None = None
    """Scalar: where it is 0 the output is the input. None: never."""


class GatedLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` under masks; bit for bit that without any."""

    masks: NormMasks

    @classmethod
    def convert(cls, norm: nn.Module, masks: NormMasks) -> GatedLayerNorm:
        """Make a stock norm, in its place, one of this class that reads `masks` in every forward; returns it.

        Raises:
            ValueError: it is of another class, such as this one.
        """
        if type(norm) is not nn.LayerNorm:
            raise ValueError(
                f"expected a torch.nn.LayerNorm to be masked, found {type(norm).__name__}; masks that were placed "
                "before must be removed first"
            )
        converted: Any = norm
        converted.__class__ = cls
        converted.masks = masks
        return converted

    def restore(self) -> None:
        """Make it a stock norm again."""
        stock: Any = self
        del stock.masks
        stock.__class__ = nn.LayerNorm

    def forward(self, input: Tensor) -> Tensor:
        """[..., d] -> [..., d]"""
        hidden, sublayer = self.masks.hidden, self.masks.sublayer
        output = super().forward(input) if hidden is None else self._of_the_living(input, hidden)
        return output if sublayer is None else torch.where(sublayer == 0, input, output)

    def _of_the_living(self, input: Tensor, hidden: Tensor) -> Tensor:
        """z ((x - mean) / sqrt(variance + eps) weight + bias), both over the dimensions where z is not 0; computed in
        fp32 at least, as torch does."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        alive = (hidden != 0).to(x.dtype)
        share = alive / alive.sum().clamp(min=1.0)
        centred = x - (x * share).sum(dim=-1, keepdim=True)
        variance = (centred.square() * share).sum(dim=-1, keepdim=True)
        output = centred * torch.rsqrt(variance + self.eps) * self.weight
        if self.bias is not None:
            output = output + self.bias
        return (output * hidden).to(input.dtype)
