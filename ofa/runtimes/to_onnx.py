"""A model as a program of ONNX: fp32, or int8 in QDQ form from the scales that training has found.

In: a torch model, dense, sparse or compact, as it is or made to compute in whole numbers by
`ofa.runtimes.integer_graph`. Out: a program of torch's exporter; batch and length stay free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import opset21 as op
from torch import Tensor
from transformers import PreTrainedModel

from ofa.runtimes.ops import dequantise, quantise_dequantise

OPSET = 21

BATCH, LENGTH = "batch", "length"
"""Names of the free sizes."""

TRACED = (2, 8)
"""Sizes with which a graph is recorded."""


def _quantise_dequantise(values: Any, scale: Any, zero_point: Any) -> Any:
    integers: Any = op.QuantizeLinear(values, scale, zero_point)
    return op.DequantizeLinear(integers, scale, zero_point)


def _dequantise(integers: Any, scale: Any) -> Any:
    return op.DequantizeLinear(integers, scale, axis=1)


TRANSLATIONS = {quantise_dequantise._opoverload: _quantise_dequantise, dequantise._opoverload: _dequantise}


def onnx_program(model: PreTrainedModel, inputs: Sequence[str]) -> torch.onnx.ONNXProgram:
    """Record the model.

    Args:
        model: on a CPU, in evaluation mode, fp32.
        inputs: names of what it reads, of `input_ids`, `attention_mask` and `token_type_ids`.

    Returns:
        The program, whose outputs are named as the model's fields.
    """
    example = _example(inputs, model.config.vocab_size)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if value is not None]
    sizes = {0: torch.export.Dim(BATCH), 1: torch.export.Dim(LENGTH, max=model.config.max_position_embeddings)}
    program = torch.onnx.export(
        model,
        (),
        kwargs=example,
        output_names=outputs,
        dynamo=True,
        dynamic_shapes=dict.fromkeys(example, sizes),
        custom_translation_table=TRANSLATIONS,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    return program


def _example(inputs: Sequence[str], vocab_size: int) -> dict[str, Tensor]:
    """Tokens of which one row's end is padding, so that no mask is left out of the graph."""
    batch, length = TRACED
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    values = {
        "input_ids": torch.arange(batch * length).reshape(batch, length) % vocab_size,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
    }
    return {name: values[name] for name in inputs}
