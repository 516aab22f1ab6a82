"""Reload a folder through the stock transformers class it was saved from and compare every tensor bit by bit.

Takes a folder and its tensors as read from the files; gives what did not arrive unchanged. A second reader of our own
would prove nothing: what users run is `from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import transformers
from torch import Tensor
from transformers import PreTrainedConfig

from ofa.export.count import same_bits
from ofa.export.hf import CONFIG_FILE, quiet_transformers

AUTO_CLASSES = (
    transformers.AutoModelForPreTraining,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForSequenceClassification,
    transformers.AutoModelForQuestionAnswering,
    transformers.AutoModelForTokenClassification,
    transformers.AutoModel,
)
TOLERATED = ("position_ids",)
"""Buffers that old checkpoints hold and current classes compute."""


@dataclass(frozen=True)
class Mismatch:
    """One tensor, or the whole reload, that did not arrive as it was written."""

    name: str
    what: str


def reload_mismatches(
    folder: Path, config: PreTrainedConfig, tensors: Mapping[str, Tensor]
) -> tuple[list[Mismatch], list[str]]:
    """Load with the Auto class that gives the architecture named in config.json and compare.

    Returns:
        What is wrong, and notes on what was done.
    """
    auto = auto_class(config)
    try:
        with quiet_transformers():
            model, info = auto.from_pretrained(folder, output_loading_info=True, dtype="auto", local_files_only=True)
    except Exception as error:  # whatever a stock class raises on a bad folder is the finding
        return [Mismatch(auto.__name__, f"cannot load: {type(error).__name__}: {error}")], []
    loaded = model.state_dict()
    found = [
        Mismatch(name, "unknown to the stock class")
        for name in sorted(info["unexpected_keys"])
        if not name.endswith(TOLERATED)
    ]
    found += [Mismatch(name, "missing in the file, freshly drawn on loading") for name in sorted(info["missing_keys"])]
    for name, tensor in tensors.items():
        if name in loaded and not same_bits(tensor, loaded[name]):
            found.append(Mismatch(name, "other bits after loading than in the file"))
    compared = sum(name in loaded for name in tensors)
    note = f"reloaded as {type(model).__name__} through {auto.__name__}: {compared} of {len(tensors)} tensors compared"
    return found, [note]


def read_config(folder: Path) -> PreTrainedConfig:
    """The transformers config of a model folder.

    Raises:
        ValueError: config.json cannot be used.
    """
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} cannot be used: {error}") from None


def auto_class(config: PreTrainedConfig) -> type:
    """The stock Auto class whose model for this config is the one that config.json names; AutoModel if none is."""
    wanted = (config.architectures or [""])[0]
    for auto in AUTO_CLASSES:
        model_class = auto._model_mapping.get(type(config), None)
        if getattr(model_class, "__name__", None) == wanted:
            return auto
    return transformers.AutoModel
