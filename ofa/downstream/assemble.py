"""From a fine-tuning config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import FinetuneConfig, ScheduleConfig
from ofa.cost import size_of
from ofa.data.task_batches import TaskLoader
from ofa.downstream.evaluation import evaluate_split
from ofa.downstream.task_data import TaskData, check_ranks_agree, open_task_data
from ofa.downstream.taught import cached, warn_of_a_bad_teacher
from ofa.engine.engine import Engine
from ofa.export.masks_file import MASKS_FILE, read_masks, read_patterns
from ofa.export.recipe_file import Parent
from ofa.guard import UpdateGuard
from ofa.models.adapters import scope, shape
from ofa.models.build import side_file
from ofa.models.task_models import build_task_model, load_task_teacher
from ofa.models.task_training import TaskTeacher, TaskTraining, TaughtRows
from ofa.parts import compute_dtype, guarded_engine, journal, masked_share, parent
from ofa.progress import Progress
from ofa.pruning.lock import PatternLock, locked_masks
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import NoPruner, Pruner, Weights
from ofa.recipe import Recipe
from ofa.run import Run, Teaches, begin, resume
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)


@dataclass
class FinetuningRun(Run):
    """A run on a task's rows."""

    data: TaskData = field(kw_only=True)
    patterns: dict[str, str] = field(kw_only=True)
    """Of the locked masks, by parameter name, as the base's masks.safetensors says."""
    module: TaskTraining
    best: tuple[int, float] | None = field(default=None, kw_only=True)
    """Step and value of the best score so far, among those whose zeros are final."""

    @property
    def settings(self) -> FinetuneConfig:
        """The config as what it is."""
        assert isinstance(self.config, FinetuneConfig)
        return self.config

    @property
    def micro_size(self) -> int:
        """Rows of one forward without a backward."""
        return self.settings.evaluate.micro_size or self.config.batch.micro_size

    def scores(self) -> dict[str, float]:
        """Loss and metrics on the validation split."""
        data = self.data
        return evaluate_split(self.module, data.task.kind, data, data.validation, micro_size=self.micro_size).scores

    def in_words(self, scores: dict[str, float]) -> str:
        """Loss and metrics."""
        shown = ("validation_loss", *self.data.task.metrics)
        return ", ".join(f"{name.replace('_', ' ')} {scores[name]:.4f}" for name in shown)

    def take_note(self, step: int, scores: dict[str, float]) -> None:
        """Remember the best."""
        super().take_note(step, scores)
        value = scores[self.data.task.best]
        if self._is_eligible(step) and (self.best is None or value > self.best[1]):
            self.best = (step, value)

    def saves_at(self, step: int) -> bool:
        """Also where it is scored, so that the best one can be exported."""
        return super().saves_at(step) or self.validates_at(step)

    def needed_steps(self) -> set[int]:
        """The best so far."""
        return super().needed_steps() | ({self.best[0]} if self.best else set())

    def state_dict(self) -> dict[str, Any]:
        """Also the best so far."""
        return super().state_dict() | {"best": self.best}

    def load_state_dict(self, step: int, state: dict[str, Any]) -> None:
        """Also the best so far."""
        super().load_state_dict(step, state)
        self.best = state["best"]

    def described(self) -> FinetuneConfig:
        """The config with the steps that its epochs came to."""
        schedule = self.settings.schedule.model_copy(update={"epochs": None, "total_steps": self.recipe.total_steps})
        return self.settings.model_copy(update={"schedule": schedule})

    def more_for_the_result(self) -> dict[str, Any]:
        """What result.json says besides."""
        return {}

    def more_for_the_recipe(self) -> dict[str, Any]:
        """What recipe.json says besides."""
        return {}

    def more_for_the_row(self) -> dict[str, Any]:
        """What the table says of the model besides."""
        return {}

    def module_around(self, exported: PreTrainedModel) -> TaskTraining:
        """What the exported model is scored as: its fp32 weights, whatever precision the run had."""
        return TaskTraining(exported, self.data.task.kind, self.settings.objective)

    def references(self) -> dict[str, PreTrainedModel]:
        """Further models that the result is held against, by name, scored in fp32."""
        return {}

    def side_files(self) -> dict[str, bytes]:
        """What stands beside the exported model besides."""
        return {}

    def take_back(self, client_state: dict[str, Any]) -> None:
        """Of an earlier step, whose weights are exported, what is exported besides them."""

    def _is_eligible(self, step: int) -> bool:
        """Trained, and of final zeros."""
        pruning = self.config.pruning
        return step > 0 and (pruning is None or step > pruning.last_refresh)


@dataclass(frozen=True)
class TaskParts:
    """What a run on a task is made of before there is an engine."""

    data: TaskData
    model: PreTrainedModel
    scoped: dict[str, nn.Parameter]
    keep: dict[str, Any]
    """Boolean masks of the lock, by parameter name; none without one."""
    patterns: dict[str, str]
    """Theirs, as `FinetuningRun.patterns`."""
    parents: list[Parent]
    loader: TaskLoader


RunT = TypeVar("RunT", bound=FinetuningRun)


def open_parts(config: FinetuneConfig, folder: RunFolder) -> TaskParts:
    """Data, model, and what is locked of it (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    data = open_task_data(config)
    check_ranks_agree(dist.gather_objects(data.fingerprint))
    for split in (data.train, data.validation):
        LOG.info("%s", split.in_words(data.task))
    built = build_task_model(config.model, data.task, data.labels, seed=config.seed)
    scoped = scope(built.model)
    dist.on_rank_zero(lambda: folder.check_space(config, size_of(built.model)))
    loader = TaskLoader(
        data.train.rows,
        data.task.kind,
        data.pad_id,
        config.batch,
        config.seed,
        rank=dist.rank(),
        world_size=dist.world_size(),
        device=dist.device(),
    )
    keep, patterns = _locked(config, scoped, built.drawn) if config.lock else ({}, {})
    parents = [parent("init", config.model.init, built.model, built.drawn)]
    return TaskParts(data, built.model, scoped, keep, patterns, parents, loader)


def assemble(config: FinetuneConfig, folder: RunFolder, start: Start | None, *, name: str) -> FinetuningRun:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    parts = open_parts(config, folder)
    schedule = schedule_of(config, parts.loader)
    teacher = None
    if config.teacher is not None:
        teacher, its_parent = teacher_of(config, parts.data, schedule.total_steps, folder)
        parts.parents.append(its_parent)
    return build_run(
        FinetuningRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=Recipe.of(schedule, config.optimizer.lr, config.pruning),
        module=TaskTraining(parts.model, parts.data.task.kind, config.objective),
        teacher=teacher,
        teacher_model=teacher.model if isinstance(teacher, TaskTeacher) else None,
        pruner=lambda engine: _pruner(config, parts, engine.weights),
    )


def build_run(
    kind: type[RunT],
    config: FinetuneConfig,
    folder: RunFolder,
    start: Start | None,
    parts: TaskParts,
    *,
    name: str,
    recipe: Recipe,
    module: TaskTraining,
    teacher: Teaches | None,
    teacher_model: PreTrainedModel | None,
    pruner: Callable[[Engine], Pruner],
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
        parts: data and model.
        name: what people call the run.
        recipe: its clock.
        module: what the engine trains; holds the model.
        teacher: what gives targets.
        teacher_model: asked in every step, for FLOPs; None: nobody is.
        pruner: made from the engine.
        last_step: of all stages; None: there is one, and the recipe ends with it.
        more: fields that only `kind` has, or that have defaults.
    """
    data, guard = parts.data, UpdateGuard(config.optimizer)
    masked = masked_share(parts.model)
    operations = _flops_per_token(parts.model, data, teacher_model)
    engine = guarded_engine(config, module, parts.scoped, guard, start)
    progress = Progress(last_step or recipe.total_steps, active=dist.rank() == 0)
    accuracy = None if data.task.kind == "regression" else "train_accuracy"
    run = kind(
        name=name,
        config=config,
        folder=folder,
        data_fingerprint=data.fingerprint,
        data=data,
        patterns=parts.patterns,
        loader=parts.loader,
        recipe=recipe,
        module=module,
        engine=engine,
        teacher=teacher,
        pruner=pruner(engine),
        journal=journal(config, folder, masked, progress, flops_per_token=operations, accuracy=accuracy),
        progress=progress,
        parents=parts.parents,
        guard=guard,
        validate_every=config.evaluate.every or math.ceil(len(data.train.rows) / config.batch.global_size),
        **more,
    )
    if start is not None:
        resume(run, start)
    begin(run)
    return run


def teacher_of(
    config: FinetuneConfig, data: TaskData, steps: int, folder: RunFolder
) -> tuple[TaskTeacher | TaughtRows, Parent]:
    """What the student learns from, and whose weights it is (a collective call)."""
    assert config.teacher is not None
    dense, order = load_task_teacher(config.teacher, data.task, data.labels, data.tokenizer, config.model.attention)
    its_parent = parent("teacher", config.teacher.init, dense)
    asked = TaskTeacher(dense, data.task.kind, order).to(dist.device(), compute_dtype(config))
    epochs = steps * config.batch.global_size / len(data.train.rows)
    teacher = cached(config, data, asked, epochs=epochs, folder=folder.path, fingerprint=its_parent.fingerprint)
    if isinstance(teacher, TaughtRows) and data.task.kind == "classification" and dist.rank() == 0:
        warn_of_a_bad_teacher(teacher.values.argmax(dim=1).cpu().numpy(), data)
    return teacher, its_parent


def lock_of(config: FinetuneConfig, parts: TaskParts, weights: Weights) -> Pruner:
    """What keeps the base's zeros; without a lock, nothing."""
    return PatternLock(parts.keep, parts.scoped, weights) if config.lock else NoPruner()


def _pruner(config: FinetuneConfig, parts: TaskParts, weights: Weights) -> Pruner:
    if config.pruning is not None:
        return MagnitudePruner(config.pruning, parts.scoped, weights)
    return lock_of(config, parts, weights)


def _locked(
    config: FinetuneConfig, scoped: Mapping[str, nn.Parameter], drawn: frozenset[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Masks of what is to stay zero, and their patterns where the base says any."""
    path = side_file(config.model.init, MASKS_FILE)
    keep = locked_masks(scoped, None if path is None else read_masks(path), drawn)
    patterns = {} if path is None else read_patterns(path)
    return keep, {name: patterns.get(name, "unstructured") for name in keep}


def schedule_of(config: FinetuneConfig, loader: TaskLoader) -> ScheduleConfig:
    """The steps that the config's epochs come to.

    Raises:
        ValueError: pruning goes on after them.
    """
    asked = config.schedule
    steps = asked.total_steps or loader.total_steps(asked.epochs or 0.0)
    if config.pruning is not None and config.pruning.last_refresh >= steps:
        raise ValueError(
            f"the last refresh of the masks is at step {config.pruning.last_refresh} and the run has {steps} steps: "
            "nothing would be trained under the final masks; lower pruning.ramp_end and pruning.end, or train longer"
        )
    return ScheduleConfig(total_steps=steps, warmup_steps=math.ceil(asked.warmup_share * steps), decay=asked.decay)


def _flops_per_token(model: PreTrainedModel, data: TaskData, teacher: PreTrainedModel | None) -> float:
    """Encoders alone: heads of tasks are a few thousand weights."""
    lengths = data.train.rows.lengths.astype(float)
    own = float((lengths**2).sum() / lengths.sum())
    return flops.train_flops(shape(model.config), own, 0.0, shape(teacher.config) if teacher else None, 0.0)
