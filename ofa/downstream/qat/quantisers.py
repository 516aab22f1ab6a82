"""A stock model that computes as integers of 8 bits would.

In: a stock task model and what of it is quantised. Out: the same model, whose Linears read fake-quantised inputs and
weights, until the quantisers are taken out again. Modules keep their class, names and state dict: forwards are replaced
on the instances and reached through `__call__`, so that ZeRO 3 gathers weights as always. Ranges and scales stand
beside the model.

The road not taken is a class `QuantizedLinear` (the published way): it changes names of the state dict, and every lock,
export and loader must know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ofa.downstream.qat.attention import HOOK, NAME, QuantisedAttention
from ofa.downstream.qat.fake_quant import fake_activation, fake_weight, quantise_weight
from ofa.downstream.qat.observers import Ranges
from ofa.downstream.qat.prepare import Sites
from ofa.export.quantization_file import OPERANDS, ActivationScale, ModuleScales, Scales


class WeightScales(Protocol):
    """Where the scale of a weight comes from."""

    given: bool
    """Whether it stays the same whatever the weight is: the model is finished."""

    def of(self, name: str, weight: Tensor, *, observing: bool) -> Tensor:
        """fp32 [] or [rows] for the live weight [rows, columns] of a module, without a gradient."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        ...


class FakeQuantisers:
    """Places quantisers in a model; `remove` takes them out."""

    def __init__(self, model: PreTrainedModel, sites: Sites, ranges: Ranges, weights: WeightScales):
        """Change the forwards of the sites' modules in place.

        Args:
            model: before an engine takes it.
            sites: of the model.
            ranges: of its activations, by `sites.places()`.
            weights: scales of its weights.

        Raises:
            ValueError: the model has quantisers already.
        """
        self.sites, self.ranges, self.weights = sites, ranges, weights
        self.quantising = True
        """Whether forwards compute in 8 bits."""
        self.learning = False
        """Whether forwards in training mode add to the ranges."""
        self.jitter = 0.0
        """Standard deviation, in rounding steps, of noise on activations before they are rounded: 0 but where it is
        asked what last bits can do. Probabilities of attention have none; Linears that read one tensor have each
        their own."""
        self._observing = self._calibrating = False
        self._real: Tensor | None = None
        place = {name: number for number, name in enumerate(ranges.names)}
        inputs = {f"{site.input}.input": _Input(self, place[f"{site.input}.input"]) for site in sites.linears}
        self._inputs = list(inputs.values())
        modules: list[nn.Module] = [*(site.module for site in sites.linears), *sites.tables.values()]
        if any("forward" in vars(module) for module in modules):
            raise ValueError("the model has quantisers already")
        for site in sites.linears:
            output = place[f"{site.name}.output"] if site.output else None
            site.module.forward = _Linear(self, site.name, site.module, inputs[f"{site.input}.input"], output)
        for name, table in sites.tables.items():
            table.forward = _Table(self, name, table)
        for name, module in sites.attentions.items():
            places = {operand: place[f"{name}.{operand}"] for operand in OPERANDS}
            setattr(module, HOOK, QuantisedAttention(self, places))
        self._config, self._attention = model.config, model.config._attn_implementation
        if sites.attentions:
            self._config._attn_implementation = NAME
        self._handle = model.register_forward_hook(lambda *_: self._leave())

    def remove(self) -> None:
        """Make the forwards stock again."""
        self._handle.remove()
        for module in (*(site.module for site in self.sites.linears), *self.sites.tables.values()):
            del module.forward
        for module in self.sites.attentions.values():
            delattr(module, HOOK)
        self._config._attn_implementation = self._attention

    def enter(self, real: Tensor | None, *, training: bool) -> None:
        """Say what the coming forward is; it ends with it. One that nobody announced is in evaluation mode.

        Args:
            real: bool [B, S], tokens that are no padding.
            training: as of the module.
        """
        self._leave()  # an error may have ended the one before
        self._real = real
        self._observing = training and self.learning

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Forwards are those of the float model, and are observed whatever their mode."""
        before = self.quantising
        self.quantising, self._calibrating = False, True
        try:
            yield
        finally:
            self.quantising, self._calibrating = before, False

    @property
    def watched(self) -> bool:
        """Whether a forward may add to the ranges, and so has to say which tokens count."""
        return self.learning or self._calibrating

    @property
    def observing(self) -> bool:
        """Whether the forward that goes on adds to the ranges."""
        return self._observing or self._calibrating

    def observe(self, place: int, values: Tensor) -> None:
        """Show a forward's values at a place to the observers."""
        self.ranges.observe(place, values, self._real)

    def activation(self, place: int, values: Tensor) -> Tensor:
        """Values at a place, fake-quantised."""
        if self.jitter:
            values = values + self.jitter * self.ranges.scale[place] * torch.randn_like(values)
        return fake_activation(values, self.ranges.scale[place], self.ranges.zero_point[place])

    def scales(self) -> Scales:
        """What a file of scales holds, from the whole weights as they are (not under ZeRO 3).

        Raises:
            CalibrationError: calibration never ran.
        """
        self.ranges.check()
        place = {name: number for number, name in enumerate(self.ranges.names)}

        def at(name: str) -> ActivationScale:
            number = place[name]
            return ActivationScale(self.ranges.scale[number].cpu(), self.ranges.zero_point[number].cpu())

        tables = self.sites.tables.items()
        found = {name: ModuleScales(self.weight_scale(name, table), None, None) for name, table in tables}
        for site in self.sites.linears:
            weight, output = self.weight_scale(site.name, site.module), f"{site.name}.output"
            found[site.name] = ModuleScales(weight, at(f"{site.input}.input"), at(output) if site.output else None)
        attentions = {name: {one: at(f"{name}.{one}") for one in OPERANDS} for name in self.sites.attentions}
        return Scales(found, attentions)

    def weight_scale(self, name: str, module: nn.Linear | nn.Embedding) -> Tensor:
        """Scale of a module's weight as it is, fp32 [] or [rows]."""
        return self.weights.of(name, module.weight, observing=False)

    def zeros(self) -> tuple[int, int]:
        """How many int8 weights of the Linears are 0, and how many there are (not under ZeRO 3)."""
        zeros = total = 0
        for site in self.sites.linears:
            integers = quantise_weight(site.module.weight, self.weight_scale(site.name, site.module))
            zeros, total = zeros + int((integers == 0).sum()), total + integers.numel()
        return zeros, total

    def state_dict(self) -> dict[str, Any]:
        """Ranges, and of weights what was measured."""
        return {"ranges": self.ranges.state_dict(), "weights": self.weights.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue, bit for bit.

        Raises:
            CalibrationError: of another model.
        """
        self.ranges.load_state_dict(state["ranges"])
        self.weights.load_state_dict(state["weights"])

    def _leave(self) -> None:
        """After a forward: keep nothing of its graph."""
        self._real, self._observing = None, False
        for one in self._inputs:
            one.forget()


class _Input:
    """The input of one Linear, or of several that read the same tensor: observed and quantised once a forward."""

    def __init__(self, quantisers: FakeQuantisers, place: int):
        self._quantisers, self._place = quantisers, place
        self._source: Tensor | None = None
        self._result: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """What the Linear is to read."""
        if self._source is values and self._result is not None:
            return self._result
        quantisers = self._quantisers
        if quantisers.observing:
            quantisers.observe(self._place, values)
        result = quantisers.activation(self._place, values) if quantisers.quantising else values
        self._source, self._result = values, result
        return result

    def forget(self) -> None:
        """Keep no tensor alive."""
        self._source = self._result = None


class _Linear:
    """In place of a Linear's forward."""

    def __init__(self, quantisers: FakeQuantisers, name: str, module: nn.Linear, reads: _Input, output: int | None):
        self._quantisers, self._name, self._module, self._reads, self._output = quantisers, name, module, reads, output
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, input: Tensor) -> Tensor:
        quantisers = self._quantisers
        values = self._reads.of(input)
        weight = self._quantised() if quantisers.quantising else self._module.weight
        result = functional.linear(values, weight, self._module.bias)
        if self._output is None:
            return result
        if quantisers.observing:
            quantisers.observe(self._output, result)
        return quantisers.activation(self._output, result) if quantisers.quantising else result

    def _quantised(self) -> Tensor:
        """The weight as int8 has it; of a finished model it is kept from the first forward on, while the weight stays
        what and where it is. In training the optimizer writes past the version counter, so nothing is kept."""
        quantisers, weight = self._quantisers, self._module.weight
        learns = torch.is_grad_enabled() and weight.requires_grad
        if not quantisers.weights.given or learns or torch.compiler.is_compiling():
            scale = quantisers.weights.of(self._name, weight, observing=quantisers.observing)
            return fake_weight(weight, scale)
        state = (weight.data_ptr(), weight._version)
        if self._kept is None or self._kept[0] != state:
            scale = quantisers.weights.of(self._name, weight, observing=False)
            self._kept = (state, fake_weight(weight.detach(), scale))
        return self._kept[1]


class _Table:
    """In place of an embedding's forward: rows are looked up, then quantised."""

    def __init__(self, quantisers: FakeQuantisers, name: str, module: nn.Embedding):
        self._quantisers, self._name, self._module = quantisers, name, module

    def __call__(self, input: Tensor) -> Tensor:
        quantisers, table = self._quantisers, self._module
        rows = functional.embedding(input, table.weight, table.padding_idx)
        if not quantisers.quantising:
            return rows
        scale = quantisers.weights.of(self._name, table.weight, observing=quantisers.observing)
        flat = fake_weight(rows.flatten(0, -2), scale[input.flatten()] if scale.dim() else scale)
        return flat.view(rows.shape)
