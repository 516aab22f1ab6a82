"""`recipe.json`: what made a model, so that a folder can be judged without the run that made it.

The run gives what was asked for (config, parents, data); the export adds what is measured in the weights it writes.
Neither times nor paths of a machine are in it: the same run gives the same bytes anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ofa.config import TrainingConfig
from ofa.export.count import ELEMENT_BITS, TensorCount
from ofa.models.fetch import side_file

LOG = logging.getLogger(__name__)

RECIPE_FILE = "recipe.json"
FORMAT = "sparse-ofa-recipe"
VERSION = 1


class RecipeFileError(ValueError):
    """A recipe file that is missing, damaged, or of another format."""


@dataclass(frozen=True)
class Parent:
    """A model that a run started from or learned from."""

    role: Literal["init", "teacher"]
    name: str
    """As the config says it: a hub id or a folder."""
    fingerprint: str
    """`parameters_fingerprint` of the loaded weights, before any update."""


def parameters_fingerprint(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, types, shapes and bits of `model.named_parameters()`; equal for equal weights in any file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda pair: pair[0]):
        bits = tensor.detach().cpu().contiguous().view(ELEMENT_BITS[tensor.element_size()])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bits.numpy().data)
    return digest.hexdigest()


def describe_run(
    config: TrainingConfig,
    *,
    name: str,
    steps: int,
    parents: Iterable[Parent],
    data: Mapping[str, str],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The part of a recipe that a run knows: what was asked for and from what.

    Args:
        config: the resolved config; what does not decide the result (logging, checkpoints, threads) is left out.
        name: the run's name, for people ("tiny/ofa_90").
        steps: updates that were applied.
        parents: models that it started from or learned from.
        data: name and fingerprint of what was trained on.
        versions: of Python and the distributions that decide a result.
    """
    return {
        "name": name,
        "steps": steps,
        "target_sparsity": config.pruning.sparsity if config.pruning else None,
        "allocation": config.pruning.allocation if config.pruning else None,
        "parents": [without_machine_paths(asdict(parent)) for parent in parents],
        "data": dict(data),
        "versions": dict(versions),
        "config_fingerprint": config.fingerprint(),
        "config": without_machine_paths(config.decisive()),
    }


def describe_weights(
    model_type: str,
    counts: Mapping[str, TensorCount],
    sparsities: Mapping[str, float],
    *,
    patterns: Mapping[str, str],
) -> dict[str, Any]:
    """The part of a recipe that is measured: scope, pattern and counts.

    Args:
        model_type: the architecture's row in the adapter table.
        counts: of each scoped weight.
        sparsities: what they amount to: encoder, scope and model.
        patterns: of the masks that stand beside the weights, by name; without any the model is dense.
    """
    kinds = sorted(set(patterns.values())) or ["dense"]
    tensors = {name: {"numel": found.numel, "zeros": found.zeros} for name, found in counts.items()}
    weights = sum(found.numel for found in counts.values())
    return {
        "pattern": kinds[0] if len(kinds) == 1 else "mixed",
        "scope": {"model_type": model_type, "weights": weights, "tensors": tensors},
        "sparsity": dict(sparsities),
    }


def encode_recipe(parts: Mapping[str, Any]) -> str:
    """The text of a recipe file."""
    return json.dumps({"format": FORMAT, "version": VERSION, **parts}, indent=1) + "\n"


def read_recipe(folder: Path) -> dict[str, Any]:
    """A model folder's recipe.

    Raises:
        RecipeFileError: none there, not JSON, or written by another format's version.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise RecipeFileError(f"{path} does not exist")
    try:
        recipe = json.loads(path.read_text())
    except ValueError as error:
        raise RecipeFileError(f"{path} is damaged: {error}") from None
    if not isinstance(recipe, dict) or (recipe.get("format"), recipe.get("version")) != (FORMAT, VERSION):
        raise RecipeFileError(f"{path} is not a {FORMAT} of version {VERSION}")
    scope = recipe.get("scope")
    if not isinstance(scope, dict) or not all(isinstance(x, dict) for x in (scope.get("tensors"), recipe.get("files"))):
        raise RecipeFileError(f"{path} does not say which tensors and files it is about")
    return recipe


def recipe_beside(init: str) -> dict[str, Any]:
    """The recipe of a model folder or hub id; empty where there is none, or none that can be read, which is said.

    Raises:
        ModelError: there is no such model.
    """
    place = side_file(init, RECIPE_FILE)
    if place is None:
        return {}
    try:
        return read_recipe(place.parent)
    except RecipeFileError as error:
        LOG.warning("not used: %s", error)
        return {}


def without_machine_paths(value: Any) -> Any:
    """The same values with every absolute path cut to its last two names."""
    if isinstance(value, dict):
        return {key: without_machine_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return str(Path(*Path(value).parts[1:][-2:]))
    return value


def fingerprint_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
