"""A task model's folder, opened to be exported: its model, what kind of task it answers, and its scales.

In: a run folder, or a model folder, ours or any that stock transformers loads. Out: a `Source`, whose model computes in
the wanted precision, until it is made ready for the exporter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from ofa.data.tasks import Kind
from ofa.downstream.qat.fake_quant import quantise_weight
from ofa.downstream.qat.load import with_quantisers
from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.export.hf import ExportError, find_model_folder
from ofa.export.quantization_file import (
    QUANTIZATION_FILE,
    QuantizationFileError,
    Scales,
    check_not_lost,
    read_scales,
    tensors_of,
)
from ofa.export.recipe_file import RECIPE_FILE, fingerprint_of_file, read_recipe
from ofa.export.stage import recorded_stage, stage_lines
from ofa.export.verify_scales import check_scales
from ofa.export.weights import weight_files
from ofa.models.adapters import adapter_for, scope
from ofa.models.build import read_config, seeded
from ofa.models.task_models import kind_of, load_task_model
from ofa.runtimes.export_file import is_export
from ofa.runtimes.integer_graph import to_integers

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Quantised:
    """What a model in 8 bits has more."""

    scales: Scales
    quantisers: FakeQuantisers


@dataclass(frozen=True)
class Source:
    """What is exported."""

    folder: Path
    """Of the model."""
    recipe: Mapping[str, Any]
    """recipe.json; empty for a model of others."""
    kind: Kind
    model: PreTrainedModel
    """On the CPU, in evaluation mode; in int8 with its quantisers."""
    quantised: Quantised | None
    """None: fp32."""

    @property
    def precision(self) -> Precision:
        """Of the export."""
        return "fp32" if self.quantised is None else "int8"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the exported model reads."""
        has_types = adapter_for(self.model.config.model_type).takes_token_types(self.model.config)
        return ("input_ids", "attention_mask", *(("token_type_ids",) if has_types else ()))

    def files(self) -> list[Path]:
        """What its numbers are read from: weights, and in int8 the scales."""
        return [*weight_files(self.folder), *([self.folder / QUANTIZATION_FILE] if self.quantised else [])]

    def stored(self) -> dict[str, np.ndarray]:
        """The scope's weights [out, in] as the exported file has to hold them, int8 or fp32, by name."""
        modules = self.quantised.scales.modules if self.quantised else {}
        found = {}
        for name, weight in scope(self.model).items():
            scales = modules.get(name.removesuffix(".weight"))
            tensor = weight.detach() if scales is None else quantise_weight(weight, scales.weight)
            found[name] = tensor.numpy()
        return found

    def constants(self) -> dict[str, np.ndarray]:
        """What else of the Linears and tables in 8 bits the file has to hold, by name: scales, zero points, biases, and
        the int8 weights that are not of the scope. Nothing in fp32."""
        if self.quantised is None:
            return {}
        found = {name: tensor.numpy() for name, tensor in tensors_of(self.quantised.scales).items()}
        scoped = scope(self.model)
        for name, scales in self.quantised.scales.modules.items():
            module = self.model.get_submodule(name)
            bias = getattr(module, "bias", None)
            if bias is not None:
                found[f"{name}.bias"] = bias.detach().numpy()
            if f"{name}.weight" not in scoped:
                found[f"{name}.weight"] = quantise_weight(module.get_parameter("weight"), scales.weight).numpy()
        return found

    @contextmanager
    def in_floats(self) -> Iterator[None]:
        """In here the model computes in fp32, whatever it was trained in."""
        if self.quantised is None:
            yield
            return
        quantisers = self.quantised.quantisers
        quantisers.quantising = False
        try:
            yield
        finally:
            quantisers.quantising = True

    @contextmanager
    def with_jitter(self, steps: float) -> Iterator[None]:
        """In here activations move by so much, as a standard deviation in rounding steps, before they are rounded."""
        assert self.quantised is not None
        self.quantised.quantisers.jitter = steps
        try:
            with seeded(0):
                yield
        finally:
            self.quantised.quantisers.jitter = 0.0

    def for_the_exporter(self) -> PreTrainedModel:
        """The model as it is recorded; in int8 its fp32 weights are gone from then on."""
        if self.quantised is None:
            return self.model
        self.quantised.quantisers.remove()
        return to_integers(self.model, self.quantised.scales)


def open_source(path: Path, precision: Precision | None) -> Source:
    """Open a folder.

    Args:
        path: a run folder or a model folder.
        precision: None: int8 where the folder holds trained scales, else fp32.

    Raises:
        ExportError: no model there, one without the head of a task, one whose pruning goes on, or one whose files are
            not those that its recipe lists.
        QuantizationFileError: int8 is asked for and the model was not trained in 8 bits; its scales are damaged, not of
            its weights, or lost.
    """
    if is_export(path):
        raise ExportError(f"{path} was exported to a runtime already; expected the model folder that it was made from")
    folder = find_model_folder(path)
    recipe = read_recipe(folder) if (folder / RECIPE_FILE).exists() else {}
    _check_stage(folder, recipe)
    config = read_config(str(folder))
    kind = kind_of(config)
    if kind is None:
        what = (config.architectures or ["an encoder without a head"])[0]
        raise ExportError(f"{folder} is {what}; expected a task model: fine-tune it first (launch/finetune.py)")
    scales = folder / QUANTIZATION_FILE
    if precision != "fp32":
        check_not_lost(recipe, str(folder), scales, ", or export its float weights with --precision fp32")
    in_floats = precision == "fp32" or (precision is None and not scales.is_file())
    model = load_task_model(str(folder), kind)
    quantised = None if in_floats else _quantised(model, scales)
    source = Source(folder, recipe, kind, model, quantised)
    _check_files(source)
    return source


def _quantised(model: PreTrainedModel, path: Path) -> Quantised:
    """A model and its scales, which are of its weights: a runtime would compute under any, and torch too."""
    weights = model.state_dict()
    quantisers = with_quantisers(model, path, "cpu")
    for problem in check_scales(path.parent, weights):
        raise QuantizationFileError(f"{path}: {problem.where}: {problem.what}")
    return Quantised(read_scales(path), quantisers)


def _check_files(source: Source) -> None:
    recorded = source.recipe.get("files", {})
    for path in source.files():
        if path.name in recorded and fingerprint_of_file(path) != recorded[path.name]:
            raise ExportError(
                f"{path} is not the file that its recipe.json lists (its sha256 differs): restore it; python "
                f"launch/verify.py {source.folder} says what is wrong"
            )


def _check_stage(folder: Path, recipe: Mapping[str, Any]) -> None:
    stage = recorded_stage(recipe)
    if stage is not None and not stage.pruning_ended:
        raise ExportError(
            f"{folder} was exported in the middle of its run ({'; '.join(stage_lines(recipe))}): let the run end, "
            "which exports its model anew"
        )
