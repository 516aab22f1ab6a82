"""Small sparse task models to be exported to runtimes, with scales where they are to compute in 8 bits."""

import onnx
import onnxruntime
import torch

from ofa.config import QuantizationConfig
from ofa.downstream.qat.assemble import quantised
from ofa.export.quantization_file import QUANTIZATION_FILE, encode_scales
from ofa.models.adapters import scope
from ofa.models.task_training import task_logits
from tests.structures import uneven_model
from tests.task_parts import batch_of, random_rows, small_model


def sparse(case, kind="classification"):
    """A small model by architecture with zeros; `compact`: `uneven`."""
    model = uneven_model(head=kind) if case == "compact" else small_model(case, kind)
    with torch.no_grad():
        for weight in scope(model).values():
            weight[weight.abs() < weight.abs().median()] = 0
        draw = torch.Generator().manual_seed(3)
        for name, bias in model.named_parameters():
            if name.endswith(".bias"):  # none is like another
                bias.add_(0.1 * torch.randn(bias.shape, generator=draw))
    return model.eval()


def calibrated(model, batch, kind="classification", **settings):
    """Its quantisers, with ranges from a batch."""
    quantisers = quantised(model, QuantizationConfig(**settings), "cpu")
    with torch.no_grad(), quantisers.calibrating():
        quantisers.enter(batch.attention_mask.bool(), training=False)
        task_logits(model, kind, batch)
    quantisers.ranges.commit(1.0)
    quantisers.ranges.begin()
    return quantisers


def calibrate(folder, model, kind="classification", **settings):
    """Put scales of a batch beside a model."""
    batch, _ = batch_of(random_rows(kind, 12), kind)
    quantisers = calibrated(model, batch, kind, **settings)
    (folder / QUANTIZATION_FILE).write_bytes(encode_scales(quantisers.scales()))
    quantisers.remove()


def optimised(path, scratch):
    """Nodes of the graph that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(scratch / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(scratch / "optimised.onnx").graph.node


INTEGER_PRODUCTS = {"MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul"}


def integer_products(nodes):
    """Names of what each product that is computed in integers reads."""
    return [list(node.input) for node in nodes if node.op_type in INTEGER_PRODUCTS]
