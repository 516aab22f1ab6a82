"""The units that structured pruning removes, and the masks that say which.

Five families (CoFi, Xia et al. 2022, section 2; Prune OFA has none of them): attention heads, intermediate dimensions
of the feed-forward network, whole attention and feed-forward sublayers, and hidden dimensions, the last shared by all
layers. A weight lives if every unit it belongs to lives: `W_up[j, k]` of layer l is governed by z_hidn[k], z_int[l, j]
and z_FFN[l].

L layers of H heads of h dimensions, F intermediate dimensions, d hidden dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

HEADS, DIMS = "heads.layer_", "dims.layer_"
"""How keys of metrics lines begin that count a layer's units; numbers follow, from 1."""


@dataclass(frozen=True)
class Sizes:
    """How many units of each family a model has."""

    layers: int
    heads: int
    head_size: int
    intermediate: int
    hidden: int


@dataclass(frozen=True)
class StructureMasks:
    """What each unit's contribution is multiplied by: numbers in [0, 1], exactly 0 and 1 once they are final."""

    head: Tensor
    """[L, H]: each head's context vector, the input of the attention's output projection."""
    intermediate: Tensor
    """[L, F]: the input of the feed-forward network's down projection."""
    attention: Tensor
    """[L]: the output of the attention's output projection, its bias included."""
    ffn: Tensor
    """[L]: the output of the down projection, its bias included."""
    hidden: Tensor | None = None
    """[d]: everything that is written to the residual stream; None: hidden dimensions are not pruned."""

    @classmethod
    def ones(cls, sizes: Sizes, *, hidden: bool = False, device: torch.device | str = "cpu") -> StructureMasks:
        """Nothing pruned."""
        return cls(
            head=torch.ones(sizes.layers, sizes.heads, device=device),
            intermediate=torch.ones(sizes.layers, sizes.intermediate, device=device),
            attention=torch.ones(sizes.layers, device=device),
            ffn=torch.ones(sizes.layers, device=device),
            hidden=torch.ones(sizes.hidden, device=device) if hidden else None,
        )

    def canonical(self) -> StructureMasks:
        """The same, with a sublayer's own mask 0 where none of its units lives, and its units' masks 0 where its own
        is: dead is dead, by whatever way (the published code took the two for different things)."""
        attention = self.attention * (self.head > 0).any(dim=1)
        ffn = self.ffn * (self.intermediate > 0).any(dim=1)
        head = self.head * (attention > 0)[:, None]
        intermediate = self.intermediate * (ffn > 0)[:, None]
        return replace(self, head=head, intermediate=intermediate, attention=attention, ffn=ffn)

    def to(self, device: torch.device | str) -> StructureMasks:
        """The same on another device."""
        hidden = None if self.hidden is None else self.hidden.to(device)
        head, intermediate = self.head.to(device), self.intermediate.to(device)
        return StructureMasks(head, intermediate, self.attention.to(device), self.ffn.to(device), hidden)

    def alive_layers(self) -> Tensor:
        """bool [L]: layers of which a sublayer lives."""
        return (self.attention > 0) | (self.ffn > 0)


def units_by_layer(numbers: Mapping[str, float]) -> list[tuple[int, int]]:
    """(living heads, living intermediate dimensions) of each layer, from the numbers of a structure by metrics key."""
    layers = sum(key.startswith(HEADS) for key in numbers)
    return [(int(numbers[f"{HEADS}{layer}"]), int(numbers[f"{DIMS}{layer}"])) for layer in range(1, layers + 1)]


def structure_statistics(numbers: Mapping[str, float]) -> dict[str, float]:
    """A structure in four numbers, as it is published: means over all layers, dead ones too, and living sublayers."""
    heads, dims = zip(*units_by_layer(numbers), strict=True)
    found = {"heads_per_layer": fmean(heads), "dims_per_layer": fmean(dims)}
    return found | {"attention_sublayers": sum(map(bool, heads)), "ffn_sublayers": sum(map(bool, dims))}
