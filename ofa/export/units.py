"""What is left of a structurally pruned model, for people: its config comes in, with what its recipe says was asked;
sizes of each layer and the share of the dense encoder that is gone go out.

The config says it of any compact model, also of one whose recipe is lost; weights follow from the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from ofa.export.words import structure_method
from ofa.models.adapters import shape
from ofa.models.architecture import CompactShape, Shape
from ofa.models.blocks import living_shape
from ofa.tables import table


@dataclass(frozen=True)
class Units:
    """Of one compact model."""

    dense: Shape
    """What it was cut out of."""
    living: CompactShape
    asked: str
    """How the structure was found and what for; empty where no recipe says it."""

    @classmethod
    def of(cls, config: PreTrainedConfig, recipe: Mapping[str, Any] | None = None) -> Units | None:
        """Of a model's config, and its recipe.json where that is there; None of a model with all its units."""
        living, dense = living_shape(config), shape(config)
        if not isinstance(living, CompactShape):
            return None
        section = ((recipe or {}).get("config") or {}).get("structure")
        return cls(dense, living, structure_method(section) if section else "")

    @property
    def weights(self) -> int:
        """Of the Linears of the layers that are left."""
        return self._weights(self.living)

    @property
    def gone(self) -> float:
        """Share of the weights of the dense encoder's Linears."""
        return 1.0 - self.weights / self._weights(self.dense)

    def row(self) -> dict[str, float]:
        """For a row of a result, by the keys of `ofa.tables`."""
        return {"structural_sparsity": self.gone, "encoder_weights": self.weights}

    def in_words(self) -> str:
        """A table of the layers, counted from 1, and a line of all."""
        living = zip(self.living.living_heads, self.living.living_dims, strict=True)
        of = f"of {self.dense.heads}", f"of {self.dense.intermediate:,}"
        rows = [(str(layer), f"{heads} {of[0]}", f"{dims:,} {of[1]}") for layer, (heads, dims) in enumerate(living, 1)]
        hidden = self.living.hidden, self.dense.hidden
        parts = [table(("layer", "heads", "intermediate dimensions"), rows), ""]
        parts += [f"{hidden[0]:,} of {hidden[1]:,} hidden dimensions"] if hidden[0] != hidden[1] else []
        dense = self._weights(self.dense)
        parts.append(f"structure: {self.gone:.2%} of the dense encoder's {dense:,} weights are gone")
        return "\n".join(parts + ([self.asked] if self.asked else []))

    @staticmethod
    def _weights(sizes: Shape) -> int:
        """Attention has four matrices of its width, a feed-forward network two or three of its own."""
        return sizes.hidden * (4 * sizes.attention_widths + sizes.ffn_matrices * sizes.ffn_widths)
