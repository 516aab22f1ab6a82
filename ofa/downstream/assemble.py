"""From a fine-tuning config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import FinetuneConfig, ScheduleConfig
from ofa.cost import size_of
from ofa.data.task_batches import TaskLoader
from ofa.downstream.evaluation import evaluate_split
from ofa.downstream.task_data import TaskData, check_ranks_agree, open_task_data
from ofa.downstream.taught import cached, warn_of_a_bad_teacher
from ofa.export.recipe_file import Parent
from ofa.models.adapters import scope
from ofa.models.blocks import living_shape
from ofa.models.task_models import build_task_model, load_task_teacher
from ofa.models.task_training import TaskTeacher, TaskTraining, TaughtRows
from ofa.parts import Parts, build_run, compute_dtype, lock_of, locked, parent
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import Pruner, Weights
from ofa.recipe import Recipe
from ofa.run import Run, Teaches
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)


@dataclass
class FinetuningRun(Run):
    """A run on a task's rows."""

    data: TaskData = field(kw_only=True)
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

    @property
    def made(self) -> str:
        """What the final table calls the model."""
        return "fine-tuned model"

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
class TaskParts(Parts):
    """What a run on a task is made of before there is an engine."""

    data: TaskData
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
    keep, patterns = locked(config.model.init, scoped, built.drawn) if config.lock else ({}, {})
    parents = [parent("init", config.model.init, built.model, built.drawn)]
    return TaskParts(
        model=built.model, scoped=scoped, keep=keep, patterns=patterns, parents=parents, loader=loader, data=data
    )


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
    return build_task_run(
        FinetuningRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=Recipe.of(schedule, config.optimizer.lr, config.pruning),
        module=TaskTraining(parts.model, parts.data.task.kind, config.objective),
        teacher=teacher,
        pruner=lambda engine: _pruner(config, parts, engine.weights),
    )


def build_task_run(
    kind: type[RunT],
    config: FinetuneConfig,
    folder: RunFolder,
    start: Start | None,
    parts: TaskParts,
    *,
    teacher: Teaches | None,
    **more: Any,
) -> RunT:
    """`ofa.parts.build_run` for a task (a collective call); a teacher with a `model` is asked in every step, which
    counts in FLOPs."""
    data = parts.data
    return build_run(
        kind,
        config,
        folder,
        start,
        parts,
        teacher=teacher,
        flops_per_token=_flops_per_token(parts.model, data, getattr(teacher, "model", None)),
        accuracy=None if data.task.kind == "regression" else "train_accuracy",
        data_fingerprint=data.fingerprint,
        data=data,
        validate_every=config.evaluate.every or math.ceil(len(data.train.rows) / config.batch.global_size),
        **more,
    )


def teacher_of(
    config: FinetuneConfig, data: TaskData, steps: int, folder: RunFolder
) -> tuple[TaskTeacher | TaughtRows, Parent]:
    """What the student learns from, and whose weights it is (a collective call)."""
    teacher, its_parent = live_teacher(config, data)
    epochs = steps * config.batch.global_size / len(data.train.rows)
    told = cached(config, data, teacher, epochs=epochs, folder=folder.path, fingerprint=its_parent.fingerprint)
    if isinstance(told, TaughtRows) and data.task.kind == "classification" and dist.rank() == 0:
        warn_of_a_bad_teacher(told.values.argmax(dim=1).cpu().numpy(), data)
    return told, its_parent


def live_teacher(config: FinetuneConfig, data: TaskData) -> tuple[TaskTeacher, Parent]:
    """A teacher that is asked in every step, on its device, and whose weights it is."""
    assert config.teacher is not None
    dense, order = load_task_teacher(config.teacher, data.task, data.labels, data.tokenizer, config.model.attention)
    its_parent = parent("teacher", config.teacher.init, dense)
    return TaskTeacher(dense, data.task.kind, order).to(dist.device(), compute_dtype(config)), its_parent


def _pruner(config: FinetuneConfig, parts: TaskParts, weights: Weights) -> Pruner:
    if config.pruning is not None:
        return MagnitudePruner(config.pruning, parts.scoped, weights)
    return lock_of(parts, weights, wanted=config.lock)


def schedule_of(config: FinetuneConfig, loader: TaskLoader) -> ScheduleConfig:
    """The steps that the config's epochs come to.

    Raises:
        ValueError: pruning goes on after them.
    """
    asked = config.schedule
    steps = asked.total_steps or loader.total_steps(asked.epochs or 0.0)
    check_last_refresh(config, steps)
    return ScheduleConfig(total_steps=steps, warmup_steps=math.ceil(asked.warmup_share * steps), decay=asked.decay)


def check_last_refresh(config: FinetuneConfig, steps: int) -> None:
    """Refuse a run of so many steps in which nothing is trained under the final masks.

    Raises:
        ValueError: pruning goes on after them.
    """
    if config.pruning is not None and config.pruning.last_refresh >= steps:
        raise ValueError(
            f"the last refresh of the masks is at step {config.pruning.last_refresh} and the run has {steps} steps: "
            "nothing would be trained under the final masks; lower pruning.ramp_end and pruning.end, or train longer"
        )


def _flops_per_token(model: PreTrainedModel, data: TaskData, teacher: PreTrainedModel | None) -> float:
    """Encoders alone: heads of tasks are a few thousand weights."""
    lengths = data.train.rows.lengths.astype(float)
    own = float((lengths**2).sum() / lengths.sum())
    of_teacher = living_shape(teacher.config) if teacher else None
    return flops.train_flops(living_shape(model.config), own, 0.0, of_teacher, 0.0)
