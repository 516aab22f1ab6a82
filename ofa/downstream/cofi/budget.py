"""What a structure costs: exactly for given masks, in expectation and with gradients for gates.

In: how many units there are and what each kind of cost needs. Out: `Costs`, one interface for numbers of weights, of
weights that are not zero, of multiply-adds and of milliseconds (`ofa.downstream.cofi.latency`).

Every cost is a sum over sublayers of products: a sublayer's own probability, its units', and the hidden dimensions'.
Gates are independent, so the expectation of a product is the product of probabilities, and the expected cost is exact
(CoFi, Xia et al. 2022, appendix; cofi.md 1.6). The published constants count the biases of some Linears and not of
others; here only the weights of the layers' Linears count, which makes costs of given masks equal to a count of real
tensors (COFI-9). Sums run in float64: whole numbers below 2^53 stay exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.downstream.cofi.units import LayerLinears
from ofa.models.structure import Sizes, StructureMasks


class Costs(ABC):
    """What the sublayers of an encoder cost, by units that live; embeddings, biases and heads of tasks are not counted.

    A structure's sparsity is 1 - cost / total.
    """

    sizes: Sizes
    total: float
    """Cost of the dense model."""
    measure: str
    """What is counted, in words."""

    def free(self) -> dict[str, Tensor]:
        """True at heads [L, H] and intermediate dimensions [L, F] that cost nothing, by family; {}: there are none."""
        return {}

    @abstractmethod
    def expected(self, open: OpenProbabilities) -> Tensor:
        """Expected cost of independent gates: a float64 scalar, differentiable, on the device of the probabilities.

        Raises:
            ValueError: hidden dimensions have gates and this cost does not know what one is worth.
        """

    def of(self, masks: StructureMasks) -> Tensor:
        """Cost of a given structure, a float64 scalar; a mask that is not 0 counts as a unit that lives."""
        with torch.no_grad():
            return self.expected(OpenProbabilities.of(masks))

    def sparsity(self, cost: Tensor) -> Tensor:
        """Share of the dense model's cost that is gone."""
        return 1 - cost / self.total


class UnitCosts(Costs):
    """Every head costs the same, and every intermediate dimension: so much for each hidden dimension, and a rest."""

    def __init__(
        self, sizes: Sizes, measure: str, *, head_per_hidden: float, dim_per_hidden: float, head_rest: float = 0.0
    ):
        self.sizes, self.measure = sizes, measure
        self._head_per_hidden, self._dim_per_hidden, self._head_rest = head_per_hidden, dim_per_hidden, head_rest
        head, dim = head_per_hidden * sizes.hidden + head_rest, dim_per_hidden * sizes.hidden
        self.total = sizes.layers * (sizes.heads * head + sizes.intermediate * dim)

    def expected(self, open: OpenProbabilities) -> Tensor:
        """See `Costs.expected`; knows hidden dimensions."""
        hidden = self.sizes.hidden if open.hidden is None else open.hidden.double().sum()
        heads = (open.attention.double() * open.head.double().sum(dim=1)).sum()
        dims = (open.ffn.double() * open.intermediate.double().sum(dim=1)).sum()
        return heads * (self._head_per_hidden * hidden + self._head_rest) + dims * (self._dim_per_hidden * hidden)


def parameter_costs(sizes: Sizes, *, gated: bool = False) -> UnitCosts:
    """Weights of the layers' Linears.

    Args:
        sizes: of the model.
        gated: the up projection has two halves (GeGLU).
    """
    return UnitCosts(
        sizes, "weights", head_per_hidden=4 * sizes.head_size, dim_per_hidden=_rows_and_columns_of_a_dim(gated)
    )


def mac_costs(sizes: Sizes, length: int, *, gated: bool = False) -> UnitCosts:
    """Multiply-adds of the layers for one sequence of `length` tokens: the Linears, attention scores and their product
    with the values. The last two depend on heads alone, not on the hidden size."""
    return UnitCosts(
        sizes,
        f"multiply-adds at length {length}",
        head_per_hidden=4 * sizes.head_size * length,
        dim_per_hidden=_rows_and_columns_of_a_dim(gated) * length,
        head_rest=2 * length**2 * sizes.head_size,
    )


class NonzeroCosts(Costs):
    """Weights that a sparse base keeps; the total is that of the dense model, so sparsity counts both kinds of zeros.

    With everything open the sparsity is that of the base, not 0 (cofi.md 5.8).
    """

    def __init__(self, keep: Sequence[LayerLinears], sizes: Sizes, *, hidden: bool = False):
        """Count.

        Args:
            keep: boolean keep masks of each layer's Linears; all True where a Linear is dense.
            sizes: of the model.
            hidden: count for each hidden dimension too, which takes 4 L (H + F) d bytes (113 MB for BERT-base).

        Raises:
            ValueError: there is not one entry a layer, or a mask has another shape than its Linear.
        """
        if len(keep) != sizes.layers:
            raise ValueError(f"found keep masks of {len(keep)} layers, expected {sizes.layers}: pass one entry a layer")
        for layer, linears in enumerate(keep):
            linears.check(sizes, layer)
        self.sizes, self.measure = sizes, "weights that are not zero"
        self.total = sum(linears.weights() for linears in keep)
        heads, dims = [k.of_heads(sizes).float() for k in keep], [k.of_dims(sizes).float() for k in keep]
        self._knows_hidden = hidden
        self._heads, self._dims = (
            torch.stack(counts if hidden else [count.double().sum(dim=1) for count in counts])
            for counts in (heads, dims)
        )

    def free(self) -> dict[str, Tensor]:
        """Units of which the base has kept no weight."""
        counts = {"head": self._heads, "intermediate": self._dims}
        return {name: (count.sum(dim=2) if self._knows_hidden else count) == 0 for name, count in counts.items()}

    def expected(self, open: OpenProbabilities) -> Tensor:
        """See `Costs.expected`; knows hidden dimensions if it has counted for each."""
        if open.hidden is not None and not self._knows_hidden:
            raise ValueError("hidden dimensions have gates, but non-zeros were not counted for each: pass hidden=True")
        heads, dims = self._heads.to(open.head.device), self._dims.to(open.head.device)
        if self._knows_hidden:
            # float32 holds a row's count exactly: it stays below 2^24.
            ones = torch.ones(self.sizes.hidden, device=heads.device)
            hidden = ones if open.hidden is None else open.hidden.float()
            heads, dims = (heads @ hidden).double(), (dims @ hidden).double()
        of_attention = open.attention.double() * (open.head.double() * heads).sum(dim=1)
        of_ffn = open.ffn.double() * (open.intermediate.double() * dims).sum(dim=1)
        return of_attention.sum() + of_ffn.sum()


def _rows_and_columns_of_a_dim(gated: bool) -> int:
    return 3 if gated else 2
