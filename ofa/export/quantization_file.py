"""`quantization.safetensors`: the scales under which a model of fp32 masters computes in 8 bits.

For each quantised Linear `NAME.weight_scale` (fp32, [] or [out]), `NAME.input_scale` and `NAME.input_zero_point` (fp32
and uint8, []), and where its output is quantised `NAME.output_scale` and `NAME.output_zero_point`; for each quantised
embedding table its `NAME.weight_scale` alone. A layer's attention whose products are quantised has `NAME.query_scale`,
`NAME.query_zero_point` and the same of key and value; probabilities have the scale 1 / 255 everywhere. The metadata
says the ranges of the integers:

    weight    q = clamp(round(w / weight_scale), -128, 127), int8, zero point 0
    input     q = clamp(round(x / input_scale) + input_zero_point, 0, 255), uint8

rounding half to even. Integers themselves are not stored: they follow from model.safetensors, which stays what stock
classes load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

QUANTIZATION_FILE = "quantization.safetensors"
OPERANDS = ("query", "key", "value")
"""Of attention: what has ranges, in the order in which it reads them."""

KEY = "quantization"
"""Of the metadata: JSON, one text, for safetensors writes several in any order."""

ABOUT = {
    "format": "sparse-ofa quantization",
    "version": 1,
    "integers": {"weight": ["int8", -128, 127], "activation": ["uint8", 0, 255]},
}
"""What stands there."""


class QuantizationFileError(ValueError):
    """A quantization file that is missing, damaged or of another format."""


@dataclass(frozen=True)
class ActivationScale:
    """x' = (q - zero_point) scale, q from 0 to 255; both fp32 []."""

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class ModuleScales:
    """Of one module."""

    weight: Tensor
    """fp32, [] or [rows]."""
    input: ActivationScale | None
    """None: an embedding table."""
    output: ActivationScale | None
    """None: its output is not quantised."""


@dataclass(frozen=True)
class Scales:
    """Of a model."""

    modules: Mapping[str, ModuleScales]
    """Of Linears and tables, by name."""
    attentions: Mapping[str, Mapping[str, ActivationScale]] = field(default_factory=dict)
    """Of attentions by name: one for each of `OPERANDS`."""


def encode_scales(scales: Scales) -> bytes:
    """The bytes of a file; equal scales give equal bytes."""
    tensors = tensors_of(scales)
    own = {name: tensors[name].clone().cpu() for name in sorted(tensors)}  # Linears of one input share its scale
    return safetensors.torch.save(own, metadata={KEY: json.dumps(ABOUT)})


def tensors_of(scales: Scales) -> dict[str, Tensor]:
    """Scales in fp32 and zero points in uint8, by the names that they have in a file."""
    tensors: dict[str, Tensor] = {}
    for name, one in scales.modules.items():
        tensors[f"{name}.weight_scale"] = one.weight
        tensors |= _encoded(name, {"input": one.input, "output": one.output})
    for name, operands in scales.attentions.items():
        tensors |= _encoded(name, operands)
    return tensors


def _encoded(name: str, scales: Mapping[str, ActivationScale | None]) -> dict[str, Tensor]:
    tensors = {}
    for side, one in scales.items():
        if one is not None:
            tensors[f"{name}.{side}_scale"] = one.scale
            tensors[f"{name}.{side}_zero_point"] = one.zero_point.to(torch.uint8)
    return tensors


def read_scales(path: Path) -> Scales:
    """Scales by name.

    Raises:
        QuantizationFileError: none there, damaged, or of another format.
    """
    if not path.is_file():
        raise QuantizationFileError(
            f"{path} does not exist: {path.parent} is no model that was trained in 8 bits (launch/qat.py)"
        )
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise QuantizationFileError(f"{path} is damaged or cut short: {error}") from None
    if about != ABOUT:
        raise QuantizationFileError(f"{path} is not a {ABOUT['format']} file of version {ABOUT['version']}")
    modules = {
        name: ModuleScales(
            tensors[f"{name}.weight_scale"], _activation(tensors, name, "input"), _activation(tensors, name, "output")
        )
        for name in _names(tensors, "weight")
    }
    attentions = {
        name: {operand: one for operand in OPERANDS if (one := _activation(tensors, name, operand)) is not None}
        for name in _names(tensors, OPERANDS[0])
    }
    if any(len(operands) < len(OPERANDS) for operands in attentions.values()):
        raise QuantizationFileError(f"{path} lacks scales of an attention: it is damaged")
    return Scales(modules, attentions)


def check_not_lost(recipe: Mapping[str, Any], name: str, path: Path | None, remedy: str = "") -> None:
    """Refuse to take a model for one of fp32 because its scales did not come along.

    Args:
        recipe: recipe.json of the model; empty where it has none.
        name: of the model, for messages.
        path: of its scales; None, or of no file: it has none.
        remedy: what else can be done than to copy them.

    Raises:
        QuantizationFileError: the recipe says that it was trained in 8 bits.
    """
    if "quantization" in recipe and (path is None or not path.is_file()):
        raise QuantizationFileError(
            f"{name} was trained in 8 bits, as its recipe.json says, and has no {QUANTIZATION_FILE}: copy the file "
            f"from where the model came from{remedy}"
        )


def _names(tensors: Mapping[str, Tensor], side: str) -> list[str]:
    ending = f".{side}_scale"
    return sorted(name.removesuffix(ending) for name in tensors if name.endswith(ending))


def _activation(tensors: Mapping[str, Tensor], name: str, side: str) -> ActivationScale | None:
    scale, zero_point = (tensors.get(f"{name}.{side}_{what}") for what in ("scale", "zero_point"))
    if scale is None or zero_point is None:
        return None
    return ActivationScale(scale, zero_point.float())
