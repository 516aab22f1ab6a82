"""Hidden states behind each encoder layer, as the forward goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.models.adapters import encoder_layers


class LayerRecorder:
    """Keeps the output [B, S, d] of every layer of a model until it is taken; hooks, because transformers' own
    `output_hidden_states` asks for the embeddings too and goes through every caller in between."""

    def __init__(self, model: PreTrainedModel):
        layers = encoder_layers(model)
        self._slots = [_Slot() for _ in layers]
        self._handles = [
            layer.register_forward_hook(slot.keep) for layer, slot in zip(layers, self._slots, strict=True)
        ]

    def take(self) -> list[Tensor]:
        """Those of the last forward, first layer to last; handed out once, so that nothing else keeps the graph alive.

        Raises:
            RuntimeError: no forward since they were taken.
        """
        found = [slot.state for slot in self._slots if slot.state is not None]
        for slot in self._slots:
            slot.state = None
        layers = len(self._slots)
        if len(found) < layers:
            raise RuntimeError(f"{len(found)} of {layers} layers were recorded: each forward's are taken once")
        return found

    def remove(self) -> None:
        """Record no longer."""
        for handle in self._handles:
            handle.remove()


@dataclass(eq=False)
class _Slot:
    """Of one layer; each layer has its own, so that all share one compilation."""

    state: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """A forward hook."""
        self.state = output
