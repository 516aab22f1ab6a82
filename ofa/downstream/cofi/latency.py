"""Milliseconds as a cost: a table of this machine, and the costs that are read from it.

In: sizes, and how a model will be run (device, precision, batch, length, threads as they are set). Out: `LatencyTable`,
milliseconds of an attention with a heads and of a feed-forward network with k dimensions (ZipLM, Kurtic et al. 2023,
measures such tables), and `LatencyCosts`, which interpolates it at the expected numbers of units.

Unlike counts, milliseconds are not linear in units, so the expected cost is that of the expected structure, not the
expectation; the two meet when gates have closed or opened. What lies between sublayers (norms, embeddings) is not in
the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.probabilities import OpenProbabilities
from ofa.models.structure import Sizes
from ofa.timing import timed

DIM_STEPS = 16
"""Numbers of dimensions that are measured, evenly spread up to all; between them the table is a line."""

FEW_DIMS = (8, 16, 32, 64, 128)
"""Measured besides: structures of 95 % have some hundred dimensions a layer, and a call has a price of its own, so that
a line from 0 to the first sixteenth would promise time that is not to be had."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one sublayer by how many units it has; numbers rise from 0 and milliseconds never fall."""

    heads: tuple[int, ...]
    heads_ms: tuple[float, ...]
    dims: tuple[int, ...]
    dims_ms: tuple[float, ...]

    def __post_init__(self):
        for name, numbers, ms in (("heads", self.heads, self.heads_ms), ("dims", self.dims, self.dims_ms)):
            rises = len(numbers) == len(ms) > 1 and all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
            if not rises or numbers[0] != 0 or ms[0] != 0 or any(a > b for a, b in zip(ms, ms[1:], strict=False)):
                raise ValueError(
                    f"latency table: {name} {list(numbers)} take {list(ms)} ms; expected numbers that rise from 0, and "
                    "milliseconds that begin at 0 and never fall"
                )


class LatencyCosts(Costs):
    """Milliseconds of all sublayers, one after the other; hidden dimensions are not in the table."""

    def __init__(self, table: LatencyTable, sizes: Sizes, *, device: torch.device | str = "cpu"):
        """Raises ValueError if the table does not end at the sizes."""
        if (table.heads[-1], table.dims[-1]) != (sizes.heads, sizes.intermediate):
            raise ValueError(
                f"the latency table ends at {table.heads[-1]} heads and {table.dims[-1]} dimensions, the model has "
                f"{sizes.heads} and {sizes.intermediate}: measure one for this model"
            )
        self.sizes, self.measure = sizes, "milliseconds"
        self.total = sizes.layers * (table.heads_ms[-1] + table.dims_ms[-1])
        self._heads = _Line(table.heads, table.heads_ms, device)
        self._dims = _Line(table.dims, table.dims_ms, device)

    def expected(self, open: OpenProbabilities) -> Tensor:
        """Of the expected numbers of units; see the module."""
        if open.hidden is not None:
            raise ValueError("latency is measured at the full hidden size: switch hidden gates off, or count weights")
        of_attention = open.attention.double() * self._heads.at(open.head.double().sum(dim=1))
        of_ffn = open.ffn.double() * self._dims.at(open.intermediate.double().sum(dim=1))
        return (of_attention + of_ffn).sum()


class _Line:
    """A table as a function: straight between its points."""

    def __init__(self, places: tuple[int, ...], values: tuple[float, ...], device: torch.device | str):
        self._places = torch.tensor(places, dtype=torch.float64, device=device)
        self._values = torch.tensor(values, dtype=torch.float64, device=device)
        self._slopes = self._values.diff() / self._places.diff()

    def at(self, x: Tensor) -> Tensor:
        """Values at places [n], without a wait for the device."""
        places, values, slopes = (row.to(x.device) for row in (self._places, self._values, self._slopes))
        after = torch.searchsorted(places, x.detach()).clamp(1, len(slopes))
        # From the right end of its piece, so that the value at a point of the table is the table's, to the bit.
        return values[after] - (places[after] - x) * slopes[after - 1]


def measure_latency(
    sizes: Sizes,
    *,
    batch: int,
    length: int,
    gated: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rounds: int = 20,
) -> LatencyTable:
    """Time sublayers of all sizes on this machine; some seconds for BERT-base at batch 1 on a CPU.

    Sizes take turns in each round, so that a disturbance meets all of them, and the median of a size counts. A size
    that came out faster than a smaller one takes that one's time. Two machines, and two calls, give other numbers: in a
    run of several ranks one measures and tells the others (`ofa.dist.on_rank_zero`).

    Args:
        sizes: of the model.
        batch: sequences at once.
        length: tokens of each.
        gated: the up projection has two halves (GeGLU).
        device: where.
        dtype: in which precision.
        rounds: how often each size is timed; one more before them is not counted.
    """
    states = torch.randn(batch, length, sizes.hidden, device=device, dtype=dtype)
    heads = tuple(range(1, sizes.heads + 1))
    steps = {max(1, sizes.intermediate * k // DIM_STEPS) for k in range(1, DIM_STEPS + 1)}
    dims = tuple(sorted(steps | {few for few in FEW_DIMS if few < sizes.intermediate}))
    calls = [_attention(states, number, sizes.head_size) for number in heads]
    calls += [_ffn(states, number, gated) for number in dims]
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for number in range(rounds + 1):
            for call, of_call in zip(calls, times, strict=True):
                duration = timed(call, states.device)
                if number:
                    of_call.append(duration)
    medians = [1e3 * median(of_call) for of_call in times]
    return LatencyTable(
        (0, *heads), _never_falling(medians[: len(heads)]), (0, *dims), _never_falling(medians[len(heads) :])
    )


def _attention(states: Tensor, heads: int, head_size: int) -> Callable[[], Tensor]:
    width, (batch, length, hidden) = heads * head_size, states.shape
    qkv = [states.new_empty(width, hidden).normal_(std=0.02) for _ in range(3)]
    out = states.new_empty(hidden, width).normal_(std=0.02)

    def call() -> Tensor:
        q, k, v = (functional.linear(states, w).view(batch, length, heads, head_size).transpose(1, 2) for w in qkv)
        context = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return functional.linear(context, out)

    return call


def _ffn(states: Tensor, dims: int, gated: bool) -> Callable[[], Tensor]:
    hidden = states.shape[-1]
    up = states.new_empty(2 * dims if gated else dims, hidden).normal_(std=0.02)
    down = states.new_empty(hidden, dims).normal_(std=0.02)

    def call() -> Tensor:
        inner = functional.linear(states, up)
        if gated:
            inner, gate = inner.chunk(2, dim=-1)
            return functional.linear(functional.gelu(inner) * gate, down)
        return functional.linear(functional.gelu(inner), down)

    return call


def _never_falling(values: list[float]) -> tuple[float, ...]:
    highest = [0.0]
    for value in values:
        highest.append(max(highest[-1], value))
    return tuple(highest)
