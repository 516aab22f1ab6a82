"""Attention whose two products read 8-bit numbers: queries and keys, then probabilities and values.

    P = softmax(Q' K'^T scaling + mask)          Q', K', V' uint8 with ranges of their own, after rotary positions
    y = dropout(P') V'                           P' uint8 with the scale 1 / 255: probabilities need no range

Stock models look their attention up by a name in their config; this one is registered under a name of its own. Where a
forward is not quantised it is SDPA's, bit for bit. The mask is the boolean one of SDPA.

The published scheme quantises queries and keys where their Linears end and leaves probabilities and values in floating
point (prune-ofa.md section 4): then the second product has no integer form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ofa.downstream.qat.fake_quant import ACTIVATION_LEVELS, fake_activation
from ofa.export.quantization_file import OPERANDS

NAME = "sdpa_in_8_bits"
PROBABILITY_SCALE = 1 / ACTIVATION_LEVELS[1]

HOOK = "_attention_in_8_bits"
"""Attribute of a module whose attention is quantised."""


class Quantises(Protocol):
    """What an attention asks of the quantisers that hold it."""

    quantising: bool

    @property
    def observing(self) -> bool:
        """Whether the forward that goes on adds to the ranges."""
        ...

    def observe(self, place: int, values: Tensor) -> None:
        """Show values [B, S, ...] to the observers."""
        ...

    def activation(self, place: int, values: Tensor) -> Tensor:
        """Values at a place, fake-quantised."""
        ...


class QuantisedAttention:
    """The attention of one layer; queries, keys and values are [B, heads, S, d]."""

    def __init__(self, quantisers: Quantises, places: Mapping[str, int]):
        """
        Args:
            quantisers: that hold the ranges.
            places: numbers of `OPERANDS`.
        """
        self._quantisers = quantisers
        self._places = [places[operand] for operand in OPERANDS]

    @property
    def quantising(self) -> bool:
        """Whether the forward that goes on computes in 8 bits."""
        return self._quantisers.quantising

    def show(self, operands: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add them to the ranges, where this forward does."""
        if self._quantisers.observing:
            for place, values in zip(self._places, operands, strict=True):
                self._quantisers.observe(place, values.transpose(1, 2))

    def forward(
        self,
        operands: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        *,
        scaling: float | None,
        dropout: float,
    ) -> Tensor:
        """[B, S, heads, d]; `mask` is bool [B, 1, S, S], True where a query sees a key."""
        pairs = zip(self._places, operands, strict=True)
        query, key, value = (self._quantisers.activation(place, values) for place, values in pairs)
        scores = masked_scores(query, key, mask, scaling)
        probabilities = scores.softmax(dim=-1, dtype=torch.float32)
        quantised = fake_activation(probabilities, *_of_probabilities(scores.device)).to(value.dtype)
        return (functional.dropout(quantised, dropout) @ value).transpose(1, 2)


def masked_scores(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """[B, heads, S, S], so low where a query does not see a key that its probability is 0.

    In a layer with a local window padding may see no key at all. The lowest finite number gives it finite values, which
    count for nothing; -inf would give NaN, and 0 times NaN in the next layer spoils the text itself.
    """
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def _of_probabilities(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.full((), PROBABILITY_SCALE, device=device), torch.zeros((), device=device)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """What transformers calls; see `sdpa_attention_forward`, which it is for a module that is not quantised."""
    own: QuantisedAttention | None = getattr(module, HOOK, None)
    if own is not None:
        own.show((query, key, value))
        if own.quantising:
            scaling, dropout = more.get("scaling"), more.get("dropout", 0.0)
            return own.forward((query, key, value), attention_mask, scaling=scaling, dropout=dropout), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
