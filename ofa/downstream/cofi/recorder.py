"""Hidden states behind each encoder layer, as the forward goes by."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.models.adapters import encoder_layers


class LayerRecorder:
    """Keeps the output [B, S, d] of every layer of a model until it is taken; hooks, because transformers' own
    `output_hidden_states` asks for the embeddings too and goes through every caller in between."""

    def __init__(self, model: PreTrainedModel):
        layers = encoder_layers(model)
        self._states: list[Tensor | None] = [None] * len(layers)
        self._handles = [layer.register_forward_hook(self._keeper(place)) for place, layer in enumerate(layers)]

    def take(self) -> list[Tensor]:
        """Those of the last forward, first layer to last; handed out once, so that nothing else keeps the graph alive.

        Raises:
            RuntimeError: no forward since they were taken.
        """
        states = self._states
        self._states = [None] * len(states)
        found = [state for state in states if state is not None]
        if len(found) < len(states):
            raise RuntimeError(f"{len(found)} of {len(states)} layers were recorded: each forward's are taken once")
        return found

    def remove(self) -> None:
        """Record no longer."""
        for handle in self._handles:
            handle.remove()

    def _keeper(self, place: int) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._states[place] = output

        return keep
