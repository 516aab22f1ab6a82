"""Small sparse task models to be exported to runtimes, with scales where they are to compute in 8 bits."""

import torch

from ofa.config import QuantizationConfig
from ofa.downstream.qat.assemble import quantised
from ofa.export.quantization_file import QUANTIZATION_FILE, encode_scales
from ofa.models.adapters import scope
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from ofa.models.task_training import task_logits
from tests.structures import random_masks
from tests.task_parts import batch_of, random_rows, small_model


def sparse(case, kind="classification"):
    """A small model by architecture with zeros; `compact`: with a dead attention and other sizes in each layer."""
    model = small_model(
        "bert" if case == "compact" else case, kind, **({"num_hidden_layers": 3} if case == "compact" else {})
    )
    if case == "compact":
        masks = random_masks(sizes_of(model), seed=2)
        masks.head[0] = 0
        model = materialise(model, masks.canonical())
    with torch.no_grad():
        for weight in scope(model).values():
            weight[weight.abs() < weight.abs().median()] = 0
    return model.eval()


def calibrate(folder, model, kind="classification", **settings):
    """Put scales of a batch beside a model."""
    quantisers = quantised(model, QuantizationConfig(**settings), "cpu")
    batch, _ = batch_of(random_rows(kind, 12), kind)
    with torch.no_grad(), quantisers.calibrating():
        quantisers.enter(batch.attention_mask.bool(), training=False)
        task_logits(model, kind, batch)
    quantisers.ranges.commit(1.0)
    quantisers.ranges.begin()
    (folder / QUANTIZATION_FILE).write_bytes(encode_scales(quantisers.scales()))
    quantisers.remove()
