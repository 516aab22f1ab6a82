"""Scales of 8 bits held against the weights that they are of.

In: a model folder's `quantization.safetensors`, if it has one, and its weights. Out: problems, each with a fixed name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ofa.export.quantization_file import (
    QUANTIZATION_FILE,
    ActivationScale,
    ModuleScales,
    QuantizationFileError,
    read_scales,
)
from ofa.export.verify_masks import Problem

MOST_LEVELS = 127.5 * (1 + 1e-5)
"""Largest magnitude of a weight over its scale that a run can leave (`quantization.weight_divisor` and rounding)."""


def check_scales(folder: Path, tensors: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Every scale is of a weight that is there, of its shape, a positive number, and so large that int8 reaches every
    weight; nothing where there are none."""
    path = folder / QUANTIZATION_FILE
    if not path.exists():
        return
    try:
        scales = read_scales(path)
    except QuantizationFileError as error:
        yield Problem("damaged-scales", QUANTIZATION_FILE, str(error))
        return
    for name, one in scales.modules.items():
        weight = tensors.get(f"{name}.weight")
        if weight is None:
            yield Problem("scale-without-weight", name, "has scales, and the weights file does not have it")
            continue
        yield from _of_module(name, one, weight)
    for name, operands in scales.attentions.items():
        for operand, scale in operands.items():
            yield from _of_activation(f"{name}.{operand}", scale)


def _of_module(name: str, scales: ModuleScales, weight: Tensor) -> Iterator[Problem]:
    if scales.weight.shape not in (torch.Size([]), weight.shape[:1]):
        what = f"{list(scales.weight.shape)} scales, expected one or {weight.shape[0]}, one a row of the weight"
        yield Problem("scale-shape", name, what)
    elif not _is_positive(scales.weight):
        yield Problem("bad-scale", name, "a scale of the weight is not a positive number")
    else:
        rows = weight.abs().amax(dim=1) if scales.weight.dim() else weight.abs().amax()
        levels = float((rows.float() / scales.weight).max())
        if levels > MOST_LEVELS:
            what = f"its largest weight is {levels:.1f} scales, and int8 ends at 128: the scale is another weight's"
            yield Problem("clipped-weight", name, what)
    for side, scale in (("input", scales.input), ("output", scales.output)):
        if scale is not None:
            yield from _of_activation(f"{name}.{side}", scale)


def _of_activation(name: str, scale: ActivationScale) -> Iterator[Problem]:
    if not _is_positive(scale.scale):
        yield Problem("bad-scale", name, f"its scale is {float(scale.scale):g}, expected a positive number")


def _is_positive(values: Tensor) -> bool:
    return bool((values.isfinite() & (values > 0)).all())
