"""A model trained in 8 bits as a graph of whole numbers, for runtimes that have int8 kernels.

In: an fp32 model and the scales of its quantization.safetensors. Out: the same model, whose Linears hold int8 weights
and compute

    MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(W))

which runtimes for ONNX replace by one integer product (QDQ form; the ops are those of `ofa.runtimes.ops`). Weights
stand transposed, [in, out]: a Transpose between DequantizeLinear and MatMul hides the pattern from them. What was not
quantised stays as it was.

The road not taken is to search and rewrite an exported float graph: exporters name and fold constants as they like.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ofa.downstream.qat.attention import HOOK, NAME, PROBABILITY_SCALE, masked_scores
from ofa.downstream.qat.fake_quant import quantise_weight
from ofa.export.quantization_file import OPERANDS, ActivationScale, ModuleScales, Scales
from ofa.runtimes.ops import dequantise, quantise_dequantise

INTEGERS = "weight_int8"
"""Ending of the names of int8 weights in an exported graph."""


def to_integers(model: PreTrainedModel, scales: Scales) -> PreTrainedModel:
    """Make the model compute in whole numbers, in place and for good: its fp32 weights leave it.

    Args:
        model: on a CPU, in evaluation mode, without quantisers.
        scales: its own.
    """
    shared = _Shared()
    for name, one in scales.modules.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            module.forward = _Linear(module, one, shared)
        else:
            assert isinstance(module, nn.Embedding)
            module.forward = _Table(module, one)
        del module.weight
    for name, operands in scales.attentions.items():
        setattr(model.get_submodule(name), HOOK, _Attention(model.get_submodule(name), operands))
    if scales.attentions:
        model.config._attn_implementation = NAME
    return model


class _Activation:
    """A place with a scale, which stands in its module under `name`."""

    def __init__(self, module: nn.Module, name: str, scale: ActivationScale):
        module.register_buffer(f"{name}_scale", scale.scale)
        module.register_buffer(f"{name}_zero_point", scale.zero_point.to(torch.uint8))
        self._module, self._name = module, name

    @property
    def scale(self) -> Tensor:
        """fp32 []"""
        return self._module.get_buffer(f"{self._name}_scale")

    @property
    def zero_point(self) -> Tensor:
        """uint8 []"""
        return self._module.get_buffer(f"{self._name}_zero_point")

    def of(self, values: Tensor) -> Tensor:
        """Quantised and back."""
        return quantise_dequantise(values, self.scale, self.zero_point)

    def equals(self, other: _Activation) -> bool:
        """Whether both give the same numbers."""
        return torch.equal(self.scale, other.scale) and torch.equal(self.zero_point, other.zero_point)


class _Shared:
    """The last input that was quantised: queries, keys and values read one tensor under one scale."""

    def __init__(self) -> None:
        self._places: list[_Activation] = []
        self._last: tuple[Tensor, _Activation, Tensor] | None = None

    def place(self, own: _Activation) -> _Activation:
        """The place itself, or an earlier one with the same scale, so that inputs can be told to be equal."""
        equal = next((one for one in self._places if one.equals(own)), None)
        if equal is None:
            self._places.append(own)
        return equal or own

    def of(self, values: Tensor, place: _Activation) -> Tensor:
        """Quantised and back, once."""
        if self._last is None or self._last[0] is not values or self._last[1] is not place:
            self._last = (values, place, place.of(values))
        return self._last[2]


class _Linear:
    """In place of a Linear's forward."""

    def __init__(self, module: nn.Linear, scales: ModuleScales, shared: _Shared):
        assert scales.input is not None
        integers = quantise_weight(module.weight, scales.weight).T.contiguous()
        module.register_buffer(INTEGERS, integers)
        module.register_buffer("weight_scale", scales.weight)
        self._module, self._shared = module, shared
        self._input = shared.place(_Activation(module, "input", scales.input))
        self._output = None if scales.output is None else _Activation(module, "output", scales.output)

    def __call__(self, input: Tensor) -> Tensor:
        if input.dim() == 2:  # pooler and classifier: of two sizes, ONNX Runtime makes a Gemm in floats of it
            return self(input.unsqueeze(1)).squeeze(1)
        module = self._module
        weight = dequantise(module.get_buffer(INTEGERS), module.get_buffer("weight_scale"))
        result = self._shared.of(input, self._input) @ weight
        result = result if module.bias is None else result + module.bias
        return result if self._output is None else self._output.of(result)


class _Table:
    """In place of an embedding's forward: int8 rows are looked up, then scaled."""

    def __init__(self, module: nn.Embedding, scales: ModuleScales):
        module.register_buffer(INTEGERS, quantise_weight(module.weight, scales.weight))
        module.register_buffer("weight_scale", scales.weight)
        self._module = module

    def __call__(self, input: Tensor) -> Tensor:
        integers, scale = self._module.get_buffer(INTEGERS), self._module.get_buffer("weight_scale")
        rows = functional.embedding(input, integers).float()
        return rows * (scale[input].unsqueeze(-1) if scale.dim() else scale)


class _Attention:
    """Both products of one layer's attention; see `ofa.downstream.qat.attention`."""

    quantising = True

    def __init__(self, module: nn.Module, scales: Mapping[str, ActivationScale]):
        self._operands = [_Activation(module, operand, scales[operand]) for operand in OPERANDS]
        fixed = ActivationScale(torch.tensor(PROBABILITY_SCALE), torch.tensor(0.0))
        self._probabilities = _Activation(module, "probabilities", fixed)

    def show(self, operands: tuple[Tensor, Tensor, Tensor]) -> None:
        """Nothing is observed any more."""

    def forward(
        self, operands: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, *, scaling: float | None, dropout: float
    ) -> Tensor:
        """[B, S, heads, d]"""
        query, key, value = (place.of(values) for place, values in zip(self._operands, operands, strict=True))
        probabilities = masked_scores(query, key, mask, scaling).softmax(dim=-1)
        return (self._probabilities.of(probabilities) @ value).transpose(1, 2)
