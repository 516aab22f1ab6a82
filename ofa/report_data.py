"""What a report is made of, read from a run folder or a model folder; what is not there yet is None or empty.

Takes a path that a person typed; gives the run's records and the counts of its exported weights. Nothing is computed
here that the run has recorded itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from ofa.export.count import TensorCount, count
from ofa.export.hf import ExportError, find_model_folder
from ofa.export.recipe_file import RecipeFileError, read_recipe
from ofa.export.verify import ScopedNames
from ofa.export.weights import WeightsError, read_weights
from ofa.metrics import read_metrics
from ofa.models.adapters import AdapterError, adapter_for
from ofa.run_files import read_json
from ofa.run_folder import RunFolder

SHOWN_TENSORS = 4
"""Tensors whose weights are shown: from the first layer, from between, and the last."""


@dataclass
class ReportData:
    """Everything that a page shows."""

    folder: Path
    """Where the page is written."""
    name: str
    record: dict[str, Any] = field(default_factory=dict)
    """The run's config.json; empty for a model without its run."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    structure: dict[str, Any] | None = None
    """Units that structured pruning has left: the run's structure.json."""
    counts: dict[str, TensorCount] = field(default_factory=dict)
    """Of every scoped weight of the exported model."""
    shown: dict[str, Tensor] = field(default_factory=dict)
    note: str | None = None
    """Why there are no counts."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the run, or what the recipe kept of it."""
        return self.record.get("config") or (self.recipe or {}).get("config") or {}

    @property
    def train_lines(self) -> list[dict[str, Any]]:
        """Lines of training steps."""
        return [line for line in self.lines if "loss" in line]

    @property
    def validation_lines(self) -> list[dict[str, Any]]:
        """Lines of validations."""
        return [line for line in self.lines if "validation_loss" in line]


def read_report_data(path: str | Path) -> ReportData:
    """Read a run folder, a run's model folder, or a model folder that stands alone.

    Raises:
        ValueError: it is none of these, or a record in it is damaged.
    """
    run = _run_of(Path(path))
    if run is None:
        model = find_model_folder(path)
        data = ReportData(model, model.resolve().name)
    else:
        data = ReportData(run.path, _run_name(run.path), record=read_json(run.config), lines=read_metrics(run.metrics))
        data.result = read_json(run.result) if run.result.is_file() else None
        data.structure = read_json(run.structure) if run.structure.is_file() else None
        model = run.model
    try:
        _add_model(data, find_model_folder(model))
    except (ExportError, WeightsError, AdapterError, OSError) as error:
        data.note = "the run has not exported its model yet" if run and not run.model.exists() else str(error)
    return data


def _run_of(path: Path) -> RunFolder | None:
    """The run that a path means: the folder itself, or the one around its model folder."""
    for candidate in (path, path.resolve().parent):
        config = candidate / "config.json"
        if config.is_file() and "config" in read_json(config):
            return RunFolder(candidate)
    return None


def _run_name(path: Path) -> str:
    """As under `runs/`; elsewhere the folder's own name."""
    parts = path.resolve().parts
    return "/".join(parts[parts.index("runs") + 1 :]) if "runs" in parts[:-1] else parts[-1]


def _add_model(data: ReportData, folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    try:
        data.recipe = read_recipe(folder)
    except RecipeFileError:
        data.recipe = None  # a checkpoint of others, or a damaged folder: launch/verify.py says which
    tensors = dict(read_weights(folder))
    scope = [n for n in ScopedNames.of(adapter_for(config.model_type), config, tensors).scope if n in tensors]
    data.counts = {name: count(tensors[name]) for name in scope}
    data.shown = {name: tensors[name] for name in _spread(scope, SHOWN_TENSORS)}


def _spread(names: Sequence[str], number: int) -> list[str]:
    """A few names, evenly spread from the first to the last."""
    if len(names) <= number:
        return list(names)
    return [names[round(place * (len(names) - 1) / (number - 1))] for place in range(number)]
