"""The weights of one encoder layer, added up by the units that structured pruning removes.

In: the layer's Linears, as weights or as boolean keep masks. Out: sums per head and per intermediate dimension, each
over the hidden dimensions that it reads and writes. What costs count (weights that live) and what the magnitude
baseline ranks by (squares) are the same sums of other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ofa.models.structure import Sizes


@dataclass(frozen=True)
class LayerLinears:
    """A number for each weight of a layer's prunable Linears; H heads of h dimensions, F intermediate, d hidden."""

    qkv: Tensor
    """[3 H h, d]: query, key and value below each other, or the fused weight."""
    attention_out: Tensor
    """[d, H h]"""
    up: Tensor
    """[F, d], or [2 F, d] where the feed-forward network is gated: unit j is the rows j and j + F."""
    down: Tensor
    """[d, F]"""

    def check(self, sizes: Sizes, layer: int) -> None:
        """Raise ValueError for what is not of these sizes, naming the Linear of layer number `layer`."""
        width = sizes.heads * sizes.head_size
        expected = {
            "qkv": [(3 * width, sizes.hidden)],
            "attention_out": [(sizes.hidden, width)],
            "up": [(sizes.intermediate, sizes.hidden), (2 * sizes.intermediate, sizes.hidden)],
            "down": [(sizes.hidden, sizes.intermediate)],
        }
        for name, shapes in expected.items():
            found = tuple(getattr(self, name).shape)
            if found not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in shapes)
                raise ValueError(f"layer {layer}: {name} is {list(found)}, expected {wanted}; pass dense shapes")

    def of_heads(self, sizes: Sizes) -> Tensor:
        """[H, d]: sums over each head's rows of query, key and value and its columns of the output projection."""
        rows = self.qkv.view(3, sizes.heads, sizes.head_size, sizes.hidden).sum(dim=(0, 2))
        columns = self.attention_out.view(sizes.hidden, sizes.heads, sizes.head_size).sum(dim=2)
        return rows + columns.T

    def of_dims(self, sizes: Sizes) -> Tensor:
        """[F, d]: sums over each dimension's rows of the up projection and its column of the down projection."""
        return self.up.view(-1, sizes.intermediate, sizes.hidden).sum(dim=0) + self.down.T

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerLinears:
        """Another number for each weight."""
        return LayerLinears(*(function(tensor) for tensor in (self.qkv, self.attention_out, self.up, self.down)))

    def weights(self) -> int:
        """How many there are."""
        return sum(tensor.numel() for tensor in (self.qkv, self.attention_out, self.up, self.down))
