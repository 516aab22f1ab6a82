"""Models with a task head: stock classes, from a folder or the hub, and what of them was drawn anew.

In: where weights come from, the task's kind and its class names. Out: a stock transformers model in fp32, the names of
the parameters that the files did not give, and for a teacher the order in which its classes have to be read.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ofa.config import TaskModelConfig, TaskTeacherConfig
from ofa.data.tasks import Kind, Task
from ofa.models.adapters import adapter_for, scope
from ofa.models.build import load_model, load_tokenizer, read_config, seeded
from ofa.models.place import ModelError

LOG = logging.getLogger(__name__)

AUTO_CLASSES: dict[Kind, Any] = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "questions": AutoModelForQuestionAnswering,
}
"""The stock class of each kind of task."""

UNNAMED = re.compile(r"label_\d+")
"""What a class is called whose name nobody gave."""


@dataclass(frozen=True)
class TaskModel:
    """A model with a task head, and what its files did not hold."""

    model: PreTrainedModel
    drawn: frozenset[str]
    """Parameters that were drawn from the seed."""


def build_task_model(settings: TaskModelConfig, task: Task, labels: Sequence[str], *, seed: int) -> TaskModel:
    """The student: fp32, in training mode, its classes named.

    Raises:
        ModelError: `init` cannot be read, lacks encoder weights, or has a head for another task or other classes.
    """
    config = read_config(settings.init)
    adapter = adapter_for(config.model_type)
    check_head(config, settings, task, labels)
    name_classes(config, task, labels)
    if settings.dropout is not None:
        for key in (*adapter.dropout_keys, *adapter.head_dropout_keys):
            if hasattr(config, key):
                setattr(config, key, settings.dropout)
    with seeded(seed):
        model, report = load_model(
            AUTO_CLASSES[task.kind], settings.init, config, settings.attention, other_sizes=settings.new_head
        )
        head = _draw_head(model) if settings.new_head else frozenset()
    scope(model)
    drawn = head | frozenset(report["missing_keys"]) | {name for name, *_ in report["mismatched_keys"]}
    lacking = sorted(n for n in drawn if n.startswith(f"{adapter.base}.") and f"{adapter.pooler}." not in n)
    if lacking:
        raise ModelError(
            f"{settings.init}: {len(lacking)} weights are missing: {', '.join(lacking[:4])}; it is no pre-trained "
            f"{adapter.model_type}"
        )
    if drawn:
        LOG.info("%s has no %s: drawn from the seed", settings.init, ", ".join(sorted(drawn)))
    return TaskModel(model.train(), drawn)


def check_head(config: PreTrainedConfig, settings: TaskModelConfig, task: Task, labels: Sequence[str]) -> None:
    """Refuse to go on with the head of another task, or of other classes.

    Args:
        config: of `settings.init`.
        settings: whether it keeps its head.
        task: that it is to learn.
        labels: its classes; none while nobody has named them, and then they are not looked at.

    Raises:
        ModelError: with what it is, and what the task needs.
    """
    found, wanted = head_of(config), class_of(config, task.kind)
    if found is None or settings.new_head:
        return
    if found != wanted:
        raise ModelError(
            f"model.init {settings.init} is a {found}, and {task.name} needs a {wanted}: give the pre-trained model, "
            "or set model.new_head to true to keep its encoder and draw a new head"
        )
    if task.kind == "regression" or labels:
        _check_classes(config, task, labels, settings.init)


def load_task_model(init: str, kind: Kind, *, attention: str = "sdpa") -> PreTrainedModel:
    """A finished task model: complete, frozen, in evaluation mode.

    Raises:
        ModelError: it cannot be read, lacks weights, or has the head of another kind of task.
    """
    config = read_config(init)
    check_finished(config, init, kind)
    model, report = load_model(AUTO_CLASSES[kind], init, config, attention)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{init}: {len(missing)} weights are missing: {', '.join(missing[:4])}; it must be complete")
    return model.eval().requires_grad_(False)


def check_finished(config: PreTrainedConfig, init: str, kind: Kind) -> None:
    """Refuse a model that no task was named for, or another kind of task.

    Raises:
        ModelError: with what it is, and what is needed.
    """
    found, wanted = head_of(config), class_of(config, kind)
    if found != wanted:
        what = f"a {found}" if found else "no task model"
        raise ModelError(f"{init} is {what}; this task needs a {wanted}: give a model that was fine-tuned on it")


def check_teacher(config: PreTrainedConfig, settings: TaskTeacherConfig, task: Task, labels: Sequence[str]) -> None:
    """Refuse a teacher of another kind of task, or of other classes.

    Args:
        config: of the teacher.
        settings: what its classes are called.
        task: of the student.
        labels: the student's classes; none while nobody has named them, and then they are not looked at.

    Raises:
        ModelError: with what it is, and what the task needs.
    """
    check_finished(config, settings.init, task.kind)
    if task.kind == "regression" and config.num_labels != 1:
        raise ModelError(f"teacher {settings.init} has {config.num_labels} outputs, {task.name} needs one")
    if task.kind in ("classification", "tokens") and labels:
        _check_same_classes(labels, *_classes_of(config, settings), "teacher.labels")


def load_task_teacher(
    settings: TaskTeacherConfig, task: Task, labels: Sequence[str], tokenizer: PreTrainedTokenizerFast, attention: str
) -> tuple[PreTrainedModel, list[int] | None]:
    """A teacher, and the order in which its logits are those of the student's classes (None: as they are).

    Raises:
        ModelError: it cannot be read, is of another kind, has other classes or another vocabulary.
    """
    check_teacher(read_config(settings.init), settings, task, labels)
    model = load_task_model(settings.init, task.kind, attention=attention)
    _check_vocabulary(load_tokenizer(settings.init).get_vocab(), tokenizer.get_vocab(), settings.init)
    if task.kind in ("questions", "regression"):
        return model, None
    return model, class_order(labels, *_classes_of(model.config, settings))


def _classes_of(config: PreTrainedConfig, settings: TaskTeacherConfig) -> tuple[Sequence[str], str]:
    """A teacher's classes in the order of its ids, and who says so."""
    if settings.labels is not None:
        return settings.labels, f"teacher {settings.init}, by teacher.labels,"
    return class_names(config), f"teacher {settings.init}"


def class_order(
    ours: Sequence[str], theirs: Sequence[str], who: str, remedy: str = "teacher.labels"
) -> list[int] | None:
    """Position among `theirs` of each of our classes; None where the order is the same (OFA-20).

    Names are compared without case, spaces, hyphens and underscores, unless that makes two of ours the same. Classes
    that nobody has named are taken in the order of their ids, with a warning.

    Args:
        ours: class names in our order.
        theirs: in the order of its ids.
        who: has them, for messages.
        remedy: where its classes can be named.

    Raises:
        ModelError: other classes.
    """
    _check_same_classes(ours, theirs, who, remedy)
    if unnamed(theirs, ours):
        LOG.warning(
            "%s has classes without names: taken in the order %s; say otherwise with %s", who, _list(ours), remedy
        )
        return None
    plain = _telling_apart(ours)
    places = {plain(name): place for place, name in enumerate(theirs)}
    order = [places[plain(name)] for name in ours]
    if order == list(range(len(ours))):
        return None
    LOG.info("%s has its classes in the order %s: read in the order %s", who, _list(theirs), _list(ours))
    return order


def _check_same_classes(ours: Sequence[str], theirs: Sequence[str], who: str, remedy: str) -> None:
    """The refusals of `class_order`."""
    if len(theirs) != len(ours):
        raise ModelError(
            f"{who} has {len(theirs)} classes ({_list(theirs)}), expected {len(ours)}: {_list(ours)}; give a model "
            "that was fine-tuned on this task"
        )
    if unnamed(theirs, ours):
        return
    plain = _telling_apart(ours)
    known = {plain(name) for name in theirs}
    unknown = [name for name in ours if plain(name) not in known]
    if unknown or len(known) < len(theirs):
        raise ModelError(
            f"{who} has the classes {_list(theirs)}, expected {_list(ours)} (missing: {_list(unknown or ours)}). If "
            f"it only calls them otherwise, give the task's names in the order of its ids as {remedy}; "
            "else give a model of this task"
        )


def _telling_apart(names: Sequence[str]) -> Callable[[str], str]:
    """How names are compared: without case, spaces, hyphens and underscores, unless that makes two of them the same."""
    return _plain if len(set(map(_plain, names))) == len(names) else str


def unnamed(names: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether nobody has named a model's classes: LABEL_0 and so on, or bare numbers that are not ours too."""
    if all(UNNAMED.fullmatch(name.lower()) for name in names):
        return True
    return all(name.isdecimal() for name in names) and set(names) != set(ours)


def class_names(config: PreTrainedConfig) -> list[str]:
    """Names of a model's classes in the order of their ids."""
    names: dict[Any, str] = config.id2label or {}
    return [str(names[number]) for number in sorted(names)]


def name_classes(config: PreTrainedConfig, task: Task, labels: Sequence[str]) -> None:
    """Write a task's outputs into a config."""
    if task.kind == "questions":
        config.num_labels = 2  # start and end; a model of three classes has another number there
        return
    if task.kind == "regression":
        config.num_labels = 1
        config.problem_type = "regression"
        return
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification" if task.kind == "classification" else None


def head_of(config: PreTrainedConfig) -> str | None:
    """The task class that a config.json names; None for encoders and pre-training models."""
    name = (config.architectures or [""])[0]
    heads = {class_of(config, kind) for kind in AUTO_CLASSES}
    return name if name in heads else None


def kind_of(config: PreTrainedConfig) -> Kind | None:
    """The kind of task that a config.json's class answers; None for encoders and pre-training models."""
    head = head_of(config)
    if head == class_of(config, "regression") and config.num_labels == 1:
        return "regression"
    return next((kind for kind in AUTO_CLASSES if class_of(config, kind) == head), None)


def class_of(config: PreTrainedConfig, kind: Kind) -> str:
    """Name of the stock class of an architecture for a kind of task."""
    return AUTO_CLASSES[kind]._model_mapping[type(config)].__name__


def _check_vocabulary(theirs: Mapping[str, int], ours: Mapping[str, int], init: str) -> None:
    """Refuse a teacher to which the same ids are other words."""
    if theirs == ours:
        return
    word = min(
        dict(theirs.items() ^ ours.items()),
        key=lambda word: (min(theirs.get(word, math.inf), ours.get(word, math.inf)), word),
    )
    found, expected = (f"id {ids[word]}" if word in ids else "none" for ids in (theirs, ours))
    raise ModelError(
        f"teacher {init} has another vocabulary than the student's tokenizer ({len(theirs)} and {len(ours)} entries; "
        f"{word!r} is {found} there and {expected} here): give a teacher of the same base model"
    )


def _draw_head(model: PreTrainedModel) -> frozenset[str]:
    """Draw what stands outside the encoder, also where the file had a tensor of that name and shape: its outputs mean
    something else. Returns the names."""
    base = f"{adapter_for(model.config.model_type).base}."
    fresh = type(model)(model.config)
    names = frozenset(name for name, _ in model.named_parameters() if not name.startswith(base))
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).copy_(fresh.get_parameter(name))
    return names


def _check_classes(config: PreTrainedConfig, task: Task, labels: Sequence[str], init: str) -> None:
    """Refuse to go on with a head whose outputs mean something else."""
    theirs = class_names(config)
    if task.kind == "regression":
        fits = len(theirs) == 1
    else:
        fits = len(theirs) == len(labels) and (_same(labels, theirs) or unnamed(theirs, labels))
    if not fits:
        wanted = "one number" if task.kind == "regression" else _list(labels)
        raise ModelError(
            f"model.init {init} has a head for {_list(theirs)}, and {task.name} needs one for {wanted}: give the "
            "pre-trained model, put task.labels in that order, or set model.new_head to true"
        )


def _same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return [_plain(name) for name in ours] == [_plain(name) for name in theirs]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
