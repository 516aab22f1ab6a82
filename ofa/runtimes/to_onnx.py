"""A model as a program of ONNX: fp32, or int8 in QDQ form from the scales that training has found.

In: a torch model, dense, sparse or compact, as it is or made to compute in whole numbers by
`ofa.runtimes.integer_graph`. Out: a program of torch's exporter; batch and length stay free. What the exporter notes
beside each node (lines of code, paths of this machine) is removed, so that equal models give equal bytes.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.models.adapters import adapter_for
from ofa.runtimes.extras import load
from ofa.runtimes.ops import dequantise, quantise_dequantise

OPSET = 21

BATCH, LENGTH = "batch", "length"
"""Names of the free sizes."""

TRACED = (2, 8)
"""Sizes with which a graph is recorded."""

PACKAGES = ("onnx", "onnxscript")
"""What writing ONNX needs beside torch."""


UNKNOWN_OP = r"No ONNX function found for <OpOverload\(op='([^']+)'"
"""How the exporter says which op it lacks."""


class NotInOnnxError(ValueError):
    """A model that cannot be written in ONNX."""


def onnx_program(model: PreTrainedModel, inputs: Sequence[str]) -> torch.onnx.ONNXProgram:
    """Record the model.

    Args:
        model: on a CPU, in evaluation mode, fp32.
        inputs: names of what it reads, of `input_ids`, `attention_mask` and `token_type_ids`.

    Returns:
        The program, whose outputs are named as the model's fields.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        NotInOnnxError: the model has an op that ONNX has no form for, or cannot be recorded.
    """
    translations = _translations()
    example = _example(inputs, model.config.vocab_size)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if value is not None]
    longest = adapter_for(model.config.model_type).longest_sequence(model.config)
    sizes = {0: torch.export.Dim(BATCH), 1: torch.export.Dim(LENGTH, max=longest)}
    with _explained(type(model).__name__), _quiet(), _attention_written_out(model):
        program = torch.onnx.export(
            model,
            (),
            kwargs=example,
            output_names=outputs,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(example, sizes),
            custom_translation_table=translations,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    _forget_the_machine(program.model)
    return program


def _translations() -> dict[Any, Callable[..., Any]]:
    """Our ops in those of ONNX."""
    load("onnx")
    op = load("onnxscript").opset21

    def _quantise_dequantise(values: Any, scale: Any, zero_point: Any) -> Any:
        return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero_point), scale, zero_point)

    def _dequantise(integers: Any, scale: Any) -> Any:
        return op.DequantizeLinear(integers, scale, axis=1)

    return {quantise_dequantise._opoverload: _quantise_dequantise, dequantise._opoverload: _dequantise}


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notices, which are about its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """The exporter's reports in one line."""
    try:
        yield
    except torch.onnx.errors.OnnxExporterError as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        found = next((found for one in causes if (found := re.search(UNKNOWN_OP, str(one)))), None)
        if found is None:
            raise NotInOnnxError(f"{model} cannot be written in ONNX: {' '.join(str(causes[-1]).split())}") from None
        raise NotInOnnxError(
            f"{model} computes {found[1]}, and torch's exporter to ONNX {OPSET} has no form for this op: replace the "
            "module that computes it by one of stock ops, or run the model folder in torch"
        ) from None


@contextmanager
def _attention_written_out(model: PreTrainedModel) -> Iterator[None]:
    """Matrix products and a softmax in place of SDPA, which the exporter writes with a guard against rows without keys
    (IsNaN and Where over all probabilities) and runtimes no longer know as attention. The masks of both are finite."""
    config, before = model.config, model.config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def _forget_the_machine(model: Any) -> None:
    """Remove notes from an onnx_ir model and its graph."""
    graph = model.graph
    for one in (model, graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        one.metadata_props.clear()
    for node in graph.all_nodes():
        for one in (node, *node.outputs):
            one.metadata_props.clear()
