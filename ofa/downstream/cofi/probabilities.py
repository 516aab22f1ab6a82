"""How likely each unit of structured pruning lives: what gates give and what a budget is counted from.

A gate's mask is a random number that is 0 with some probability; its cost depends on that probability alone, not on
the mask's value. So probabilities are a type of their own, with the fields of `StructureMasks`: an expected mask would
fit wherever a probability is asked for, and be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ofa.models.structure import StructureMasks


@dataclass(frozen=True)
class OpenProbabilities:
    """P(z != 0) of every unit, in [0, 1], units taken as independent (CoFi, Xia et al. 2022, appendix).

    A family without gates has probability 1 everywhere. L layers, H heads, F intermediate dimensions, d hidden ones.
    """

    head: Tensor
    """[L, H]"""
    intermediate: Tensor
    """[L, F]"""
    attention: Tensor
    """[L]"""
    ffn: Tensor
    """[L]"""
    hidden: Tensor | None = None
    """[d]; None: hidden dimensions are not pruned."""

    @classmethod
    def of(cls, masks: StructureMasks) -> OpenProbabilities:
        """Certainties of a given structure: 1.0 where a mask is not 0, else 0.0, in the masks' dtype."""
        return cls(
            head=_alive(masks.head),
            intermediate=_alive(masks.intermediate),
            attention=_alive(masks.attention),
            ffn=_alive(masks.ffn),
            hidden=None if masks.hidden is None else _alive(masks.hidden),
        )


def _alive(mask: Tensor) -> Tensor:
    return (mask != 0).to(mask.dtype)
