"""From weights and masks as the engine or a checkpoint has them to a stock model that can be exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.checkpoint import Checkpoints, check
from ofa.config import RunConfig, parse
from ofa.data.shards import Corpus
from ofa.engine.checkpoint_files import read_checkpoint
from ofa.export.hf import OF_A_COMMAND, export_model, is_model, is_run
from ofa.export.recipe_file import Parent, describe_run
from ofa.export.run_kinds import of_another_kind
from ofa.models.build import like_student
from ofa.models.place import not_a_folder
from ofa.pruning.mask_set import unpack
from ofa.recipe import Recipe
from ofa.run_files import RunFolderError
from ofa.run_folder import RunFolder


def fill(like: PreTrainedModel, state: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> PreTrainedModel:
    """A stock model of the same class in fp32 on the CPU, with given weights and +0.0 where masks drop.

    Args:
        like: gives class and config.
        state: fp32 weights by name; other names of tied ones and buffers may stand there too.
        keep: boolean masks by name.
    """
    model = type(like)(like.config).float()
    masked = {name: torch.where(keep[name], value, 0.0) if name in keep else value for name, value in state.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masked[name])
    return model.eval()


def export_checkpoint(run_folder: Path, output: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """Export the model of a run's checkpoint, also from the middle of a run; returns the recipe beside it.

    Args:
        run_folder: the run.
        output: where the model goes; replaced if it is there.
        checkpoint: one of its step-* folders; None: the newest.

    Raises:
        RunFolderError: no run, none that pre-trains, or none with a checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    _check_run(run_folder)
    folder = RunFolder(run_folder)
    recorded = folder.recorded()
    other = of_another_kind(run_folder, recorded, has_model=is_model(folder.model))
    if other is not None:
        raise RunFolderError(other)
    config = parse(RunConfig, recorded["config"], origin=str(folder.config))
    path = checkpoint or Checkpoints(folder.checkpoints, config.checkpoint).latest()
    if path is None:
        raise RunFolderError(f"{run_folder} has no checkpoint yet: let it run to step {config.checkpoint.every}")
    if checkpoint is not None:
        check(path)  # the newest was looked through when it was found
    corpus = Corpus.open(config.data.path)
    state, client = read_checkpoint(path, prefix="model.")
    if client["step"] == config.schedule.total_steps and Recipe(config).at(client["step"]).update_mask:
        raise RunFolderError(
            f"{path} is the state before the last masks were chosen, which this run does at its very end (step "
            f"{client['step']}); use {folder.model}, or start the run again if that is not there"
        )
    model = like_student(config.model)
    shapes = dict(model.named_parameters())
    keep = {name: unpack(bits, shapes[name].shape) for name, bits in client["pruner"].get("masks", {}).items()}
    recipe = describe_run(
        config,
        name=client["name"],
        steps=client["step"],
        parents=[Parent(**parent) for parent in client["parents"]],
        data={"name": Path(config.data.path).name, "fingerprint": corpus.fingerprint},
        versions=recorded["versions"],
    )
    return export_model(output, fill(model, state, keep), corpus.tokenizer_path, keep, recipe, OF_A_COMMAND)


def _check_run(path: Path) -> None:
    """Name what was taken for a run folder: above all the model in it, which the other commands accept."""
    if not path.is_dir():
        raise RunFolderError(not_a_folder(path, "a run folder"))
    if not is_model(path):
        return
    around = path.parent if path.parent.name else path.resolve().parent
    if is_run(around):
        raise RunFolderError(f"{path} is the exported model of a run; expected that run's folder, {around}")
    raise RunFolderError(f"{path} is a model folder; expected the folder of the run that made it")
