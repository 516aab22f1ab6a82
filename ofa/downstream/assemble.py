"""From a fine-tuning config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
from ofa.run import Run, begin, resume
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)


@dataclass
class FinetuningRun(Run):
    """A run on a task's rows."""

    data: TaskData = field(kw_only=True)
    patterns: dict[str, str] = field(kw_only=True)
    """Of the locked masks, by parameter name, as the base's masks.safetensors says."""
    module: TaskTraining
    teacher: TaskTeacher | TaughtRows | None
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

    def _is_eligible(self, step: int) -> bool:
        """Trained, and of final zeros."""
        pruning = self.config.pruning
        return step > 0 and (pruning is None or step > pruning.last_refresh)


def assemble(config: FinetuneConfig, folder: RunFolder, start: Start | None, *, name: str) -> FinetuningRun:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    data = open_task_data(config)
    check_ranks_agree(dist.gather_objects(data.fingerprint))
    for split in (data.train, data.validation):
        LOG.info("%s", split.in_words(data.task))
    task = data.task
    built = build_task_model(config.model, task, data.labels, seed=config.seed)
    model, scoped = built.model, scope(built.model)
    dist.on_rank_zero(lambda: folder.check_space(config, size_of(model)))
    parents = [parent("init", config.model.init, model, built.drawn)]
    loader = TaskLoader(
        data.train.rows,
        task.kind,
        data.pad_id,
        config.batch,
        config.seed,
        rank=dist.rank(),
        world_size=dist.world_size(),
        device=dist.device(),
    )
    schedule = _schedule(config, loader)
    keep, patterns = _locked(config, scoped, built.drawn) if config.lock else ({}, {})
    teacher = None
    if config.teacher is not None:
        teacher, its_parent = _teacher(config, data, schedule.total_steps, folder)
        parents.append(its_parent)
    module, guard = TaskTraining(model, task.kind, config.objective), UpdateGuard(config.optimizer)
    masked = masked_share(model)
    engine = guarded_engine(config, module, scoped, guard, start)
    recipe = Recipe.of(schedule, config.optimizer.lr, config.pruning)
    progress = Progress(recipe.total_steps, active=dist.rank() == 0)
    operations = _flops_per_token(model, data, teacher.model if isinstance(teacher, TaskTeacher) else None)
    accuracy = None if task.kind == "regression" else "train_accuracy"
    run = FinetuningRun(
        name=name,
        config=config,
        folder=folder,
        data_fingerprint=data.fingerprint,
        data=data,
        patterns=patterns,
        loader=loader,
        recipe=recipe,
        module=module,
        engine=engine,
        teacher=teacher,
        pruner=_pruner(config, keep, scoped, engine.weights),
        journal=journal(config, folder, masked, progress, flops_per_token=operations, accuracy=accuracy),
        progress=progress,
        parents=parents,
        guard=guard,
        validate_every=config.evaluate.every or math.ceil(len(data.train.rows) / config.batch.global_size),
    )
    if start is not None:
        resume(run, start)
    begin(run)
    return run


def _teacher(
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


def _pruner(
    config: FinetuneConfig, keep: Mapping[str, Any], scoped: Mapping[str, nn.Parameter], weights: Weights
) -> Pruner:
    if config.lock:
        return PatternLock(keep, scoped, weights)
    return MagnitudePruner(config.pruning, scoped, weights) if config.pruning else NoPruner()


def _locked(
    config: FinetuneConfig, scoped: Mapping[str, nn.Parameter], drawn: frozenset[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Masks of what is to stay zero, and their patterns where the base says any."""
    path = side_file(config.model.init, MASKS_FILE)
    keep = locked_masks(scoped, None if path is None else read_masks(path), drawn)
    patterns = {} if path is None else read_patterns(path)
    return keep, {name: patterns.get(name, "unstructured") for name in keep}


def _schedule(config: FinetuneConfig, loader: TaskLoader) -> ScheduleConfig:
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
