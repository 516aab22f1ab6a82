"""The zeros of two models compared place by place, from their files alone.

Comes in: a model folder and its base, a folder or a hub id. Neither needs masks.safetensors or recipe.json, so that
released checkpoints can be compared (OFA-25). Goes out: how many places of each scoped tensor are zero in only one of
the two. Masks were not asked: those of a fine-tuned model are copies of its base's, and agree with them however the
weights went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ofa.export.hf import CONFIG_FILE, find_model_folder
from ofa.export.reload import read_config
from ofa.export.verify import ScopedNames
from ofa.export.verify_masks import Problem
from ofa.export.weights import SINGLE, read_weights
from ofa.models.adapters import adapter_for
from ofa.models.compact import MODEL_TYPE_PREFIX
from ofa.models.fetch import side_file
from ofa.models.place import is_local


class ZerosError(ValueError):
    """Two models whose zeros cannot be compared: what each has."""


@dataclass(frozen=True)
class Change:
    """Zeros of one tensor that are not the base's."""

    lost: int
    """Zero in the base only."""
    new: int
    """Zero in the model only."""


@dataclass
class ZerosCompared:
    """What the comparison found."""

    base: str
    changes: dict[str, Change] = field(default_factory=dict)
    """By the model's name of the tensor; only tensors that differ."""
    tensors: int = 0
    places: int = 0
    zeros: int = 0
    """Places that are zero in both."""
    moved: int = 0
    """Places that are zero in neither and have other values."""
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The finding in one line."""
        differ = sum(change.lost + change.new for change in self.changes.values())
        begin = f"zeros are {'not ' if differ else ''}those of {self.base}: {differ:,} of {self.places:,} places differ"
        where = f"in {len(self.changes)} of {self.tensors} tensors" if differ else f"in {self.tensors} tensors"
        return f"{begin} {where}; {self.zeros:,} zeros kept, {self.moved:,} kept weights moved"

    def problems(self) -> Iterator[Problem]:
        """One for each tensor that differs."""
        for name, change in self.changes.items():
            what = f"{change.lost} zeros of {self.base} are no longer zero, {change.new} zeros are new"
            yield Problem("other-zeros", name, what)


def compare_zeros(folder: Path, base: str) -> ZerosCompared:
    """XOR of the zeros of every scoped tensor that both models have; either sign of zero is one.

    Args:
        folder: the model folder.
        base: model or run folder of what it came from, or a hub id.

    Raises:
        ZerosError: another architecture, another number of layers, other shapes, a compact model and a whole one, or no
            weights at a hub id.
        WeightsError: weights that cannot be read.
        ValueError: a folder is no model, or a config.json cannot be used.
    """
    place = _folder_of(base)
    _check_architecture(folder, place, base)
    ours, theirs = _scoped(folder), _scoped(place)
    result = ZerosCompared(base)
    for name, weight in ours.items():
        if name in theirs:
            _compare(result, name, weight, theirs[name])
    for names, owner in ((ours.keys() - theirs.keys(), folder), (theirs.keys() - ours.keys(), base)):
        result.notes += [f"not compared, only {owner} has it: {name}" for name in sorted(names)]
    if not result.tensors:
        raise ZerosError(f"{folder} and {base} have no scoped tensor in common: are these the weights of encoders?")
    return result


def _compare(result: ZerosCompared, name: str, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ZerosError(
            f"{name} is {list(ours.shape)} here and {list(theirs.shape)} in {result.base}: it is not what this model "
            "came from"
        )
    zero, was_zero = ours == 0, theirs == 0
    change = Change(lost=int((was_zero & ~zero).sum()), new=int((zero & ~was_zero).sum()))
    if change.lost or change.new:
        result.changes[name] = change
    result.tensors += 1
    result.places += ours.numel()
    result.zeros += int((zero & was_zero).sum())
    result.moved += int(((ours != theirs) & ~zero & ~was_zero).sum())


def _scoped(folder: Path) -> Mapping[str, Tensor]:
    """Scoped weights under the names that they have with the base's prefix."""
    config = read_config(folder)
    adapter, tensors = adapter_for(config.model_type), dict(read_weights(folder))
    names = ScopedNames.of(adapter, config, tensors)
    prefix = "" if names.prefix else f"{adapter.base}."
    return {prefix + name: tensors[name] for name in names.scope if name in tensors}


def _check_architecture(folder: Path, place: Path, base: str) -> None:
    ours, theirs = read_config(folder), read_config(place)
    compact, stock = (name.removeprefix(MODEL_TYPE_PREFIX) for name in (ours.model_type, theirs.model_type))
    if compact == stock and ours.model_type != theirs.model_type:
        small, whole = (folder, base) if ours.model_type != stock else (base, folder)
        raise ZerosError(
            f"{small} is a compact model and {whole} is not: units were cut out, and the files of a model do not say "
            "which, so places cannot be paired. Compare compact models of one structure with each other; the zeros "
            "that a compact model was cut out with are held against its own masks without --same-zeros-as"
        )
    for key, what in (("model_type", "architecture"), ("num_hidden_layers", "number of layers")):
        found, expected = getattr(ours, key), getattr(theirs, key)
        if found != expected:
            raise ZerosError(f"the {what} is {found} in {folder} and {expected} in {base}: expected the model's base")


def _folder_of(base: str) -> Path:
    """Where a base's files are; a hub id's are fetched."""
    if is_local(base):
        return find_model_folder(Path(base).expanduser())
    config = side_file(base, CONFIG_FILE)
    if config is None or not any(side_file(base, name) for name in SINGLE):
        raise ZerosError(
            f"{base} is no folder here, and the hub gave no {CONFIG_FILE} with {' or '.join(SINGLE)} under that id: "
            "give a folder, or download it first"
        )
    return config.parent
