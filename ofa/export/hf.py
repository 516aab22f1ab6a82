"""Export: the folder that stock transformers loads, with the zeros in place and what made them beside it.

    config.json  model.safetensors  <tokenizer files>  masks.safetensors  recipe.json  README.md

The folder is built beside its final place and renamed; equal models give equal bytes. Sparse storage formats were left
aside: no stock loader reads them, and the zeros compress well where size matters.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ofa.export.card import CARD_FILE, model_card
from ofa.export.count import count
from ofa.export.masks_file import MASKS_FILE, write_masks
from ofa.export.recipe_file import RECIPE_FILE, describe_weights, encode_recipe, fingerprint_of_file
from ofa.export.run_kinds import unfinished
from ofa.export.targets import recorded_patterns
from ofa.files import check_space, explained_space, new_folder, write_bytes, write_text
from ofa.models.adapters import scope
from ofa.models.place import MODEL_FOLDER, not_a_folder
from ofa.models.sparsity import sparsities

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
ONE_FILE = "1000GB"
"""Shard size that no encoder reaches."""


class ExportError(ValueError):
    """A model that cannot be exported, or a folder that is neither a run's nor a model's."""


@dataclass(frozen=True)
class Remedies:
    """What to do where a model cannot be written, in the terms of the command that writes it."""

    occupied: str
    """Something that is no exported model stands there."""
    full: str
    """The disk is."""


OF_A_RUN = Remedies(
    "move it away, or choose another --run-dir",
    "free space and start the same command again: it continues from the newest checkpoint",
)
OF_A_COMMAND = Remedies(
    "choose another --output, or move it away",
    "free space or choose another --output; what stood there still stands",
)


def export_model(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer_path: str | Path,
    keep: Mapping[str, Tensor],
    recipe: Mapping[str, Any],
    remedies: Remedies = OF_A_RUN,
    side_files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Write a model folder, or replace one, in a single step; returns its recipe with what was measured.

    Args:
        folder: final place; its parent is created.
        model: stock class, fp32 on the CPU, with zeros where `keep` is False. Its -0.0 become +0.0 in place.
        tokenizer_path: folder whose tokenizer files are copied as they are.
        keep: boolean masks of pruned parameters by name; empty for a dense model, which gets no masks.safetensors.
        recipe: what the run knows (`ofa.export.recipe_file.describe_run`).
        remedies: what to tell whom the folder or the disk stops.
        side_files: further files by name; their checksums stand in the recipe as those of all others.

    Raises:
        ExportError: a weight is not finite, a mask is not of the scope, there is no tokenizer, or something that is no
            exported model stands there.
        OSError: the disk is full or cannot be written; what stood there still stands.
    """
    folder = Path(folder)
    _normalise(model)
    patterns = recorded_patterns(recipe, {name: mask.shape for name, mask in keep.items()})
    measured = _measure(model, keep, patterns)
    check_replaceable(folder, remedies.occupied)
    needed = sum(4 * parameter.numel() for parameter in model.parameters())
    check_space(folder, "exported model", needed, remedies.full)
    with explained_space(folder.parent, "exported model", remedies.full), new_folder(folder) as building:
        _save_weights(building, model)
        copy_tokenizer(Path(tokenizer_path), building)
        if keep:
            write_masks(building / MASKS_FILE, keep, patterns)
        for name, data in (side_files or {}).items():
            write_bytes(building / name, data)
        for path in building.iterdir():
            shutil.copymode(building / CONFIG_FILE, path)  # safetensors makes files that only their owner can read
        made = {path.name: fingerprint_of_file(path) for path in sorted(building.iterdir())}
        complete = {**recipe, **measured, "files": made}
        write_text(building / RECIPE_FILE, encode_recipe(complete))
        write_text(building / CARD_FILE, model_card(complete))
    return complete


def check_replaceable(folder: Path, then: str, mark: str = RECIPE_FILE) -> None:
    """Refuse a place for a model where something else stands: what stands at the final place is deleted.

    Args:
        folder: where a model is to go.
        then: what to do, in the caller's terms (`Remedies.occupied`).
        mark: the file by which an earlier export of that kind is known.

    Raises:
        ExportError: it is neither free nor empty nor an earlier export.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())) or (folder / mark).is_file():
        return
    raise ExportError(f"{folder} exists and is no exported model (it has no {mark}): {then}")


def find_model_folder(path: str | Path) -> Path:
    """The model folder that a path means: itself, or `model/` of a run folder.

    Raises:
        ExportError: neither is there.
    """
    path = Path(path)
    if not path.is_dir():
        raise ExportError(not_a_folder(path, "a run folder or a model folder"))
    for candidate in (path / MODEL_FOLDER, path):
        if is_model(candidate):
            return candidate
    if is_run(path):
        raise ExportError(unfinished(path, _json_object(path / CONFIG_FILE)))
    raise ExportError(f"{path} is neither a run folder with model/ nor a model folder with a config.json")


def is_model(folder: Path) -> bool:
    """Whether a model's config.json stands there, whoever made it."""
    return "model_type" in _json_object(folder / CONFIG_FILE)


def is_run(folder: Path) -> bool:
    """Whether a run's record stands there."""
    return "config" in _json_object(folder / CONFIG_FILE)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no notices of transformers inside; what they say is in return values."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def _normalise(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ExportError(f"{name} holds values that are not finite: the run has diverged; nothing was exported")
        parameter.add_(0.0)  # -0.0 + 0.0 is +0.0, every other value keeps its bits


def _measure(model: PreTrainedModel, keep: Mapping[str, Tensor], patterns: Mapping[str, str]) -> dict[str, Any]:
    """Count the weights that are about to be written, after holding the masks against them."""
    scoped = scope(model)
    outside = sorted(keep.keys() - scoped.keys())
    if outside:
        raise ExportError(f"masks of weights outside the scope: {', '.join(outside[:4])}")
    for name, mask in keep.items():
        assert mask.shape == scoped[name].shape, f"mask of {name} has another shape than its weight"
        assert not bool(scoped[name][~mask].any()), f"{name} is not zero where its mask drops it"
    counts = {name: count(tensor.detach()) for name, tensor in scoped.items()}
    return describe_weights(model.config.model_type, counts, sparsities(model), patterns=patterns)


def _save_weights(folder: Path, model: PreTrainedModel) -> None:
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=ONE_FILE)
    config = json.loads((folder / CONFIG_FILE).read_text())
    config.pop("_name_or_path", None)  # a path of the machine that trained it
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_text(folder / CONFIG_FILE, text)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files as they are.

    Raises:
        ExportError: there are none.
    """
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise ExportError(f"{source} holds no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}")
    for path in found:
        shutil.copyfile(path, folder / path.name)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
