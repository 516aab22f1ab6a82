"""`quantization.safetensors`: the scales under which a model of fp32 masters computes in 8 bits.

For each quantised Linear `NAME.weight_scale` (fp32, [] or [out]), `NAME.input_scale` and `NAME.input_zero_point` (fp32
and uint8, []), and where its output is quantised `NAME.output_scale` and `NAME.output_zero_point`; for each quantised
embedding table its `NAME.weight_scale` alone. The metadata says the ranges of the integers:

    weight    q = clamp(round(w / weight_scale), -128, 127), int8, zero point 0
    input     q = clamp(round(x / input_scale) + input_zero_point, 0, 255), uint8

rounding half to even. Integers themselves are not stored: they follow from model.safetensors, which stays what stock
classes load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

QUANTIZATION_FILE = "quantization.safetensors"
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


def encode_scales(scales: Mapping[str, ModuleScales]) -> bytes:
    """The bytes of a file; equal scales give equal bytes."""
    tensors: dict[str, Tensor] = {}
    for name in sorted(scales):
        one = scales[name]
        tensors[f"{name}.weight_scale"] = one.weight
        for side, found in (("input", one.input), ("output", one.output)):
            if found is not None:
                tensors[f"{name}.{side}_scale"] = found.scale
                tensors[f"{name}.{side}_zero_point"] = found.zero_point.to(torch.uint8)
    own = {name: one.clone().cpu() for name, one in tensors.items()}  # Linears of one input share its scale
    return safetensors.torch.save(own, metadata={KEY: json.dumps(ABOUT)})


def read_scales(path: Path) -> dict[str, ModuleScales]:
    """Scales by module name.

    Raises:
        QuantizationFileError: none there, damaged, or of another format.
    """
    if not path.is_file():
        raise QuantizationFileError(f"{path} does not exist: {path.parent} is no model that was trained in 8 bits")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise QuantizationFileError(f"{path} is damaged or cut short: {error}") from None
    if about != ABOUT:
        raise QuantizationFileError(f"{path} is not a {ABOUT['format']} file of version {ABOUT['version']}")
    names = sorted(name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale"))
    return {
        name: ModuleScales(
            tensors[f"{name}.weight_scale"], _activation(tensors, name, "input"), _activation(tensors, name, "output")
        )
        for name in names
    }


def _activation(tensors: Mapping[str, Tensor], name: str, side: str) -> ActivationScale | None:
    scale, zero_point = (tensors.get(f"{name}.{side}_{what}") for what in ("scale", "zero_point"))
    if scale is None or zero_point is None:
        return None
    return ActivationScale(scale, zero_point.float())
