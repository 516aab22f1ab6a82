"""Parts that every kind of run makes alike, and how they are put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import TrainingConfig
from ofa.engine.engine import Engine
from ofa.export.masks_file import MASKS_FILE, read_masks, read_patterns
from ofa.export.recipe_file import Parent, parameters_fingerprint
from ofa.guard import UpdateGuard
from ofa.journal import Journal, MaskedShare, Meter
from ofa.metrics import MetricsLog
from ofa.models.adapters import encoder_names, scope
from ofa.models.fetch import side_file
from ofa.models.sparsity import base_parameters
from ofa.progress import Progress
from ofa.pruning.lock import PatternLock, locked_masks
from ofa.pruning.pruner import NoPruner, Pruner, Weights
from ofa.recipe import Recipe
from ofa.run import Batches, Run, Teaches, begin, resume
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of the precisions that configs name."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of before there is an engine."""

    model: PreTrainedModel
    scoped: dict[str, nn.Parameter]
    keep: dict[str, Any]
    """Boolean masks of the lock, by parameter name; none without one."""
    patterns: dict[str, str]
    """Theirs, as `Run.patterns`."""
    parents: list[Parent]
    loader: Batches


RunT = TypeVar("RunT", bound=Run)


def build_run(
    kind: type[RunT],
    config: TrainingConfig,
    folder: RunFolder,
    start: Start | None,
    parts: Parts,
    *,
    name: str,
    recipe: Recipe,
    module: nn.Module,
    teacher: Teaches | None,
    pruner: Callable[[Engine], Pruner],
    flops_per_token: float,
    accuracy: str | None,
    last_step: int | None = None,
    **more: Any,
) -> RunT:
    """Put a run together around its module, load the checkpoint if there is one, and cut the records back to it (a
    collective call).

    Args:
        kind: of run.
        config: of the run.
        folder: its folder.
        start: the checkpoint.
        parts: model and data.
        name: what people call the run.
        recipe: its clock.
        module: what the engine trains; holds the model.
        teacher: what gives targets.
        pruner: made from the engine.
        flops_per_token, accuracy: as of `journal`.
        last_step: of all stages; None: there is one, and the recipe ends with it.
        more: fields that only `kind` has, or that have defaults.
    """
    guard, masked = UpdateGuard(config.optimizer), masked_share(parts.model)
    engine = guarded_engine(config, module, parts.scoped, guard, start)
    progress = Progress(last_step or recipe.total_steps, active=dist.rank() == 0)
    run = kind(
        name=name,
        config=config,
        folder=folder,
        patterns=parts.patterns,
        loader=parts.loader,
        recipe=recipe,
        module=module,
        engine=engine,
        teacher=teacher,
        pruner=pruner(engine),
        journal=journal(config, folder, masked, progress, flops_per_token=flops_per_token, accuracy=accuracy),
        progress=progress,
        parents=parts.parents,
        guard=guard,
        **more,
    )
    if start is not None:
        resume(run, start)
    begin(run)
    return run


def locked(
    init: str, scoped: Mapping[str, nn.Parameter], drawn: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Masks of what is to stay zero of a model, and their patterns where it says any.

    Args:
        init: where the model is from.
        scoped: its prunable weights by name.
        drawn: names that its files lacked.
    """
    path = side_file(init, MASKS_FILE)
    keep = locked_masks(scoped, None if path is None else read_masks(path), drawn)
    patterns = {} if path is None else read_patterns(path)
    return keep, {name: patterns.get(name, "unstructured") for name in keep}


def lock_of(parts: Parts, weights: Weights, *, wanted: bool) -> Pruner:
    """What keeps the base's zeros; nothing where that is not wanted, or where structured pruning has taken every zero
    with it."""
    dropped = any(not bool(mask.all()) for mask in parts.keep.values())
    return PatternLock(parts.keep, parts.scoped, weights) if wanted and dropped else NoPruner()


def guarded_engine(
    config: TrainingConfig,
    module: nn.Module,
    scoped: Mapping[str, nn.Parameter],
    guard: UpdateGuard,
    start: Start | None,
) -> Engine:
    """The module under DeepSpeed, ready to load `start` if there is one."""
    return Engine(
        config,
        module,
        scoped,
        universal=start is not None and start.universal,
        accepts=guard.accepts if guard.looks_at_norms else None,
    )


def journal(
    config: TrainingConfig,
    folder: RunFolder,
    masked: MaskedShare,
    progress: Progress,
    *,
    flops_per_token: float,
    accuracy: str | None,
) -> Journal:
    """What writes the loop's lines; measures the device's peak first.

    Args:
        config: of the run.
        folder: where the lines go.
        masked: of the run's model.
        progress: what shows them.
        flops_per_token: of training one token.
        accuracy: name in a line of the share of right predictions; None: the task has none.
    """
    peak = flops.measure_peak_flops(dist.device(), compute_dtype(config))
    LOG.info("large matrix products run at %.3g TFLOP/s on this device: mfu is a share of that", peak / 1e12)
    metrics = MetricsLog(folder.path, tensorboard=config.log.tensorboard, active=dist.rank() == 0)
    return Journal(metrics, progress, Meter(flops_per_token, peak), masked, accuracy=accuracy)


def masked_share(model: PreTrainedModel) -> MaskedShare:
    """What counts the model's sparsity in its masks; to be made before an engine divides the weights."""
    sizes = {name: weight.numel() for name, weight in scope(model).items()}
    return MaskedShare(sizes, encoder_names(model), sum(p.numel() for p in base_parameters(model).values()))


def compute_dtype(config: TrainingConfig) -> torch.dtype:
    """Of weights and activations."""
    return DTYPES[config.engine.precision]


def parent(
    role: Literal["init", "teacher"], init: str, model: PreTrainedModel, without: Collection[str] = ()
) -> Parent:
    """A model that a run starts from or learns from, with the fingerprint of its weights `without` those that were
    drawn."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if name not in without]
    return Parent(role, init, parameters_fingerprint(named))
