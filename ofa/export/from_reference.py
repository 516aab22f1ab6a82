"""In-training checkpoints of the published implementation, turned into a model folder of ours.

Comes in: a folder as that code writes it while it prunes, where a wrapped Linear has `weight_original` (dense) and
`weight_mask` (0 or 1) in place of `weight`, and where the teacher stands among the student's buffers. Goes out: the
stock model of the class that config.json names, weight = weight_original * weight_mask with zeros of one sign, its
masks beside it. Loading the state dict into a class of our own that mimics the wrapping was left aside: names are all
that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ofa.export.count import same_bits
from ofa.export.from_state import fill
from ofa.export.hf import CONFIG_FILE, OF_A_COMMAND, TOKENIZER_FILES, check_replaceable, export_model
from ofa.export.recipe_file import fingerprint_of_file
from ofa.export.reload import TOLERATED, auto_class, read_config
from ofa.export.weights import read_file
from ofa.models.adapters import scope
from ofa.models.place import not_a_folder

STATE_FILES = ("raw_pytorch_model.bin", "pytorch_model.bin")
"""The first is written at the end of a training, beside a model that is baked already."""

ORIGINAL, MASK, TEACHER = ".weight_original", ".weight_mask", "_teacher."


class ReferenceFormatError(ValueError):
    """A folder that is no in-training checkpoint, or one that no stock class can hold."""


def export_reference(source: Path, output: Path) -> dict[str, Any]:
    """Write the model folder of an in-training checkpoint; returns the recipe beside it.

    Args:
        source: folder with config.json, tokenizer files and one of `STATE_FILES`.
        output: where the model goes; replaced if an exported model is there.

    Raises:
        ReferenceFormatError: something is missing there, or its tensors are not those of a pruned stock model.
        ExportError: something that is no exported model stands at `output`.
        AdapterError: the architecture is unknown.
    """
    path = _state_file(source)
    check_replaceable(output, OF_A_COMMAND.occupied)
    config = read_config(source)
    with torch.device("meta"):
        model = _named_class(config, source).from_config(config)
    weights, masks = unwrap(dict(read_file(path)), str(path))
    _check_fits(model, weights, str(path))
    _check_ties(model, weights, masks, str(path))
    scoped = scope(model)
    # What was left out of the pruning by its config has no mask: its zeros, if there are any, are its own.
    keep = {name: masks[name] if name in masks else weights[name] != 0 for name in scoped}
    imported = {
        "format": "in-training checkpoint of the published implementation",
        "file": path.name,
        "fingerprint": fingerprint_of_file(path),
        "auto_class": auto_class(config).__name__,
        "unscoped": sorted(masks.keys() - scoped.keys()),
    }
    recipe = {"name": source.resolve().name, "parents": [], "imported": imported}
    return export_model(output, fill(model, weights, masks), source, keep, recipe, OF_A_COMMAND)


def unwrap(state: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Plain names from those of the wrapped modules, without the teacher.

    Args:
        state: the saved state dict.
        origin: the file, for errors.

    Returns:
        Weights by their stock names, still dense, and the boolean keep masks of those that were wrapped.

    Raises:
        ReferenceFormatError: nothing was wrapped, a mask or its weight is missing, or a mask is not one.
    """
    own = {name: tensor for name, tensor in state.items() if not name.startswith(TEACHER)}
    dense = {name.removesuffix(ORIGINAL): tensor for name, tensor in own.items() if name.endswith(ORIGINAL)}
    masks = {name.removesuffix(MASK): tensor for name, tensor in own.items() if name.endswith(MASK)}
    if not dense and not masks:
        raise ReferenceFormatError(
            f"{origin} is no in-training checkpoint of the published implementation: none of its {len(state)} tensors "
            f"is called ...{ORIGINAL}. A released or finished model needs no import: give its folder as model.init"
        )
    for at in sorted(dense.keys() ^ masks.keys()):
        there, missing = (ORIGINAL, MASK) if at in dense else (MASK, ORIGINAL)
        raise ReferenceFormatError(f"{origin} holds {at}{there} but not {at}{missing}: it was cut or edited")
    weights = {name: tensor for name, tensor in own.items() if not name.endswith((ORIGINAL, MASK))}
    weights |= {f"{at}.weight": tensor for at, tensor in dense.items()}
    return weights, {f"{at}.weight": _keep(f"{at}{MASK}", mask, dense[at], origin) for at, mask in masks.items()}


def _keep(name: str, mask: Tensor, dense: Tensor, origin: str) -> Tensor:
    """A boolean mask, if it is one."""
    if mask.shape != dense.shape:
        raise ReferenceFormatError(f"{origin}: {name} is {list(mask.shape)}, its weight {list(dense.shape)}")
    keep = mask == 1
    wrong = mask[~keep & (mask != 0)]
    if wrong.numel():
        raise ReferenceFormatError(
            f"{origin}: {name} holds {wrong.numel()} values that are neither 0 nor 1, first {wrong[0].item():g}: it is "
            "damaged, or no pruning mask"
        )
    return keep


def _state_file(source: Path) -> Path:
    """The file to read, after a look at what must stand beside it."""
    if not source.is_dir():
        raise ReferenceFormatError(not_a_folder(source, "a checkpoint folder of the published implementation"))
    found = [source / name for name in STATE_FILES if (source / name).is_file()]
    if not found:
        raise ReferenceFormatError(f"{source} holds no weights; expected {' or '.join(STATE_FILES)}")
    if not (source / CONFIG_FILE).is_file():
        raise ReferenceFormatError(f"{source} has no {CONFIG_FILE}: copy the one of the model that was trained there")
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise ReferenceFormatError(
            f"{source} holds no tokenizer (one of {', '.join(TOKENIZER_FILES)}): copy the files of the model that the "
            "training began with there"
        )
    return found[0]


def _named_class(config: PreTrainedConfig, source: Path) -> Any:
    """The stock Auto class of the architecture in config.json; its names are those in the file."""
    if not config.architectures:
        raise ReferenceFormatError(
            f'{source / CONFIG_FILE} names no class; add the one that was trained, such as "architectures": '
            '["BertForPreTraining"]'
        )
    return auto_class(config)


def _check_fits(model: PreTrainedModel, weights: Mapping[str, Tensor], origin: str) -> None:
    """Every parameter of the class is there in its shape, and nothing else."""
    kind = type(model).__name__
    missing = [name for name, _ in model.named_parameters() if name not in weights]
    if missing:
        raise ReferenceFormatError(f"{origin} lacks {len(missing)} weights of {kind}: {', '.join(missing[:4])}")
    known = model.state_dict()
    unknown = sorted(name for name in weights.keys() - known.keys() if not name.endswith(TOLERATED))
    if unknown:
        raise ReferenceFormatError(
            f"{origin} holds {len(unknown)} tensors that {kind} does not have: {', '.join(unknown[:4])}. Quantised "
            "checkpoints cannot be imported; for another head, correct architectures in config.json"
        )
    for name in sorted(weights.keys() & known.keys()):
        found, wanted = list(weights[name].shape), list(known[name].shape)
        if found != wanted:
            raise ReferenceFormatError(f"{origin}: {name} is {found}, {CONFIG_FILE} makes it {wanted}")


def _check_ties(
    model: PreTrainedModel, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], origin: str
) -> None:
    """Two names of one parameter hold one value; a tied decoder that was pruned does not, and no stock class could hold
    both."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first[id(parameter)]
        if name == other or name not in weights:
            continue
        if name in masks or other in masks or not same_bits(weights[name], weights[other]):
            raise ReferenceFormatError(
                f"{origin}: {name} is tied to {other} in a stock model, but was pruned or trained apart from it: "
                "exclude it from pruning (not_to_prune) and train again, or copy the one over the other"
            )
