"""A model that was trained in 8 bits, read back with its quantisers."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ofa.data.tasks import Kind
from ofa.downstream.qat.observers import Ranges
from ofa.downstream.qat.prepare import Site, Sites
from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.downstream.qat.weights import GivenScales
from ofa.export.hf import find_model_folder
from ofa.export.quantization_file import (
    QUANTIZATION_FILE,
    ActivationScale,
    QuantizationFileError,
    Scales,
    check_not_lost,
    read_scales,
)
from ofa.export.recipe_file import recipe_beside
from ofa.export.reload import auto_class, read_config
from ofa.models.adapters import has_module
from ofa.models.build import load_model
from ofa.models.fetch import side_file
from ofa.models.task_models import load_task_model

LOG = logging.getLogger(__name__)


def load_quantized(
    folder: str | Path, *, attention: str = "sdpa", device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, FakeQuantisers]:
    """The model in evaluation mode, computing in 8 bits under the scales of its file: the logits that its run has
    scored, bit for bit on one machine and for equal batches.

    Args:
        folder: a model folder, or a run folder that holds one.
        attention: implementation of transformers.
        device: where to.

    Returns:
        The model and its quantisers; `quantisers.remove()` makes it the float model.

    Raises:
        ExportError: no model there.
        QuantizationFileError: no scales beside it, or those of another model.
    """
    folder = find_model_folder(folder)
    config = read_config(folder)
    model, _ = load_model(auto_class(config), str(folder), config, attention)
    model = model.eval().requires_grad_(False)
    nn.Module.to(model, device)
    return model, with_quantisers(model, folder / QUANTIZATION_FILE, device)


def load_as_trained(init: str, kind: Kind, device: torch.device | str) -> PreTrainedModel:
    """A finished task model that computes as it was trained: in fp32, or in 8 bits where scales stand beside it.

    Args:
        init: a model folder or a hub id.
        kind: of task.
        device: where to.

    Raises:
        ModelError: as `load_task_model`.
        QuantizationFileError: the scales are damaged, another model's, or lost.
    """
    scales = side_file(init, QUANTIZATION_FILE)
    if scales is None:
        check_not_lost(recipe_beside(init), init, None)
    model = load_task_model(init, kind)
    nn.Module.to(model, device)
    if scales is not None:
        LOG.info("%s was trained in 8 bits and computes in 8 bits", init)
        with_quantisers(model, scales, device)
    return model


def with_quantisers(model: PreTrainedModel, path: Path, device: torch.device | str) -> FakeQuantisers:
    """Place the quantisers of a file in its model, which is on the device.

    Raises:
        QuantizationFileError: none there, damaged, or another model's.
    """
    scales = read_scales(path)
    sites = _sites(model, scales, path)
    given = {name: one.weight.to(device) for name, one in scales.modules.items()}
    return FakeQuantisers(model, sites, _ranges(sites, scales, device), GivenScales(given))


def _sites(model: PreTrainedModel, scales: Scales, path: Path) -> Sites:
    linears, tables = [], {}
    for name, one in scales.modules.items():
        module = model.get_submodule(name) if has_module(model, name) else None
        expected = nn.Embedding if one.input is None else nn.Linear
        if not isinstance(module, (nn.Embedding, nn.Linear)) or not isinstance(module, expected):
            raise QuantizationFileError(
                f"{path} has scales of {name}, and the model beside it has no "
                f"{expected.__name__} there: the file is another model's"
            )
        if one.weight.dim() and one.weight.shape != module.weight.shape[:1]:
            raise QuantizationFileError(
                f"{path}: {name} has {len(one.weight)} scales and {len(module.weight)} rows: the "
                "file is another model's"
            )
        if isinstance(module, nn.Linear):
            linears.append(Site(name, module, name, one.output is not None))
        else:
            tables[name] = module
    strange = [name for name in scales.attentions if not has_module(model, name)]
    if strange:
        raise QuantizationFileError(
            f"{path} has scales of the attention {strange[0]}, and the model beside it has none there: the file is "
            "another model's"
        )
    return Sites(tuple(linears), tables, {name: model.get_submodule(name) for name in scales.attentions})


def _ranges(sites: Sites, scales: Scales, device: torch.device | str) -> Ranges:
    """Ranges whose scales are the file's."""
    ranges = Ranges(sites.places(), constant=1.0, device=device)
    found: list[ActivationScale] = []
    for name in ranges.names:
        module, _, side = name.rpartition(".")
        attention = scales.attentions.get(module)
        one: ActivationScale | None = attention[side] if attention else getattr(scales.modules[module], side)
        assert one is not None
        found.append(one)
    ranges.give(torch.stack([one.scale for one in found]), torch.stack([one.zero_point for one in found]))
    return ranges
