"""Scoring a finished task model on a split of its task, whoever made it.

In: a run folder, a model folder or a hub id, and what of its task the model does not say itself. Out: scores as a row
of a table, a line of results.jsonl, and files of predictions.

A model of ours knows its task: by the run folder's record where it stands in one, else by recipe.json, which does not
say where the data were. Classes are matched by name, never by number. A run could have been assembled, as for training;
that would read the training split and need a config, and a model that others have fine-tuned has neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ofa import dist
from ofa.config import ConfigError, TaskConfig, apply_override, parse
from ofa.data.tasks import Task, task_for
from ofa.downstream.evaluation import Scored, predict, scored
from ofa.downstream.qat.load import load_as_trained
from ofa.downstream.results import HOURS, append_row
from ofa.downstream.task_data import OpenTask, Split, check_ids, check_length
from ofa.downstream.write_predictions import write_predictions
from ofa.export.hf import find_model_folder, is_run
from ofa.export.recipe_file import fingerprint_of_file, recipe_beside
from ofa.export.units import Units
from ofa.export.weights import SINGLE
from ofa.models.build import load_tokenizer
from ofa.models.fetch import side_file
from ofa.models.place import ModelError, is_local
from ofa.models.sparsity import sparsities
from ofa.models.task_models import class_names, class_order, unnamed
from ofa.models.task_training import TaskTeacher
from ofa.run_files import read_json
from ofa.run_folder import RunFolder, surroundings
from ofa.tables import result_table

NAMED_IN = "id2label of its config.json"
"""Where the classes of a finished model are named."""


LABELS_GIVEN = '--set task.labels=\'["...", "..."]\''
"""Where somebody who evaluates can name them."""


class EvaluationError(ValueError):
    """A model and a split that cannot be scored together: what was found, what to give."""


@dataclass(frozen=True)
class Origin:
    """What is known of the fine-tuning that made a model; empty where nothing is."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """Of the run."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """recipe.json."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """The run's result.json."""

    @property
    def task(self) -> Mapping[str, Any]:
        """The config's section."""
        return self.config.get("task", {})


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    line: dict[str, Any]
    """As it stands in a results.jsonl: fields of `ofa.downstream.results.result_row`, null where they are not known,
    and `split`, `examples` and `evaluation_seconds`. Without labels `metrics` is empty."""
    metrics: tuple[str, ...]
    """Columns of the table."""
    files: list[Path]
    """Predictions that were written."""
    units: Units | None
    """What is left of a model whose structure was pruned."""


def evaluate_model(
    name: str,
    *,
    task: str | None = None,
    path: str | None = None,
    split: str = "validation",
    overrides: Sequence[str] = (),
    predictions: Path | None = None,
    results: Path | None = None,
    micro_size: int = 32,
) -> Evaluation:
    """Score a model on a split, in this process alone and in fp32; one that was trained in 8 bits in these.

    Args:
        name: a run folder, a model folder or a hub id.
        task: a row of `ofa.data.tasks`; None: the one that the model was fine-tuned on.
        path: folder of its files; None: as recorded, else the task's dataset on the hub.
        split: which.
        overrides: further values of the config's task section, `task.KEY=VALUE`.
        predictions: folder to which they are written.
        results: file that gets one more line.
        micro_size: rows of one forward.

    Raises:
        ValueError: of many kinds: no task is known; the model has another head or other classes; no tokenizer; no such
            split; a split without labels where scores are wanted.
    """
    began = time.monotonic()
    init = str(find_model_folder(Path(name).expanduser())) if is_local(name) else name
    origin = origin_of(init)
    config = task_config(name, origin.task, task=task, path=path, overrides=overrides)
    row = task_for(config)
    model = load_as_trained(init, row.kind, dist.device())
    check_length(row, init)  # a model of another task is said to be that, however long the rows
    row, order = matched_classes(model.config, row, name)
    opened = OpenTask(config, row, load_tokenizer(init))
    part = opened.read(split)
    _check_use(row, part, predictions, results)
    found = _scored(name, model, order, opened, part, micro_size)
    files = [] if predictions is None else write_predictions(predictions, opened, part, found)
    known = _of_origin(name, origin, _fingerprint(init))
    line = {**known, **_of_scores(row, part, found, model), "evaluation_seconds": round(time.monotonic() - began, 1)}
    units = Units.of(model.config, origin.recipe)
    line |= surroundings() | (units.row() if units else {})
    if results is not None:
        append_row(results, line)
    return Evaluation(line, row.metrics, files, units)


def evaluation_table(evaluation: Evaluation) -> str:
    """The scores as a table of one row; what there is to say in its place where the split has no labels."""
    line = evaluation.line
    files = [f"predictions: {path}" for path in evaluation.files]
    if not line["metrics"]:
        return "\n".join([f"the {line['split']} split of {line['task']} has no labels: predictions alone", *files])
    row = {**line, **line["metrics"], "name": f"{line['name']}, {line['split']}"}
    left = ["", evaluation.units.in_words()] if evaluation.units else []
    return "\n".join([result_table({"rows": [row], "metrics": evaluation.metrics}).rstrip(), *left, *files])


def origin_of(init: str) -> Origin:
    """What is known of a model's fine-tuning: from the run folder in which it stands, and its recipe.json.

    Raises:
        RunFolderError: the run's record or result is damaged.
    """
    recipe = recipe_beside(init)
    config, result = recipe.get("config", {}), {}
    parent = Path(init).expanduser().resolve().parent
    if is_local(init) and is_run(parent):
        run = RunFolder(parent)
        config = run.recorded()["config"]
        result = read_json(run.result) if run.result.is_file() else {}
    return Origin(config, recipe, result) if isinstance(config, dict) and "task" in config else Origin()


def task_config(
    name: str, recorded: Mapping[str, Any], *, task: str | None, path: str | None, overrides: Sequence[str]
) -> TaskConfig:
    """The task section that a model is evaluated with.

    Args:
        name: of the model, for messages.
        recorded: the section that it was fine-tuned with; what is given wins, and of another task nothing is kept.
        task, path, overrides: as `evaluate_model`.

    Raises:
        EvaluationError: no task is known, or its recorded folder is gone.
        ConfigError: a value that the section does not take.
    """
    values = dict(recorded) if task in (None, recorded.get("name")) else {}
    if task is not None:
        values["name"] = task
    if path is not None:
        values |= {"path": path, "dataset": None}
    whole: dict[str, Any] = {"task": values}
    for override in overrides:
        if not override.startswith("task."):
            raise ConfigError(f"--set {override}: expected task.KEY=VALUE; a finished model has no other values to set")
        apply_override(whole, override)
    if "name" not in values:
        raise EvaluationError(
            f"{name} does not say which task it was fine-tuned on: give --task and --path, or --data for the masked-LM "
            "scores of a pre-trained model"
        )
    config = parse(TaskConfig, values, origin="task")
    gone = config.path is not None and not Path(config.path).expanduser().is_dir()
    if gone and path is None and config.path == recorded.get("path"):
        raise EvaluationError(
            f"{name} was fine-tuned on {config.path}, which is no folder here (working directory {Path.cwd()}): start "
            "the command where it was trained, or give --path"
        )
    return config


def matched_classes(
    config: PreTrainedConfig, task: Task, name: str, remedy: str = LABELS_GIVEN
) -> tuple[Task, list[int] | None]:
    """The task with class names, and where each of them stands in the model's logits (None: in the same place).

    Args:
        config: of the model.
        task: its row, with or without class names.
        name: of the model, for messages.
        remedy: where classes can be named in the order of the model's ids.

    Raises:
        ModelError: other classes than the task's, or more than one output for a number.
        EvaluationError: nobody has named the classes.
    """
    if task.kind == "questions":
        return task, None
    names = class_names(config)
    if task.kind == "regression":
        if len(names) != 1:
            raise ModelError(f"{name} has {len(names)} outputs, {task.name} needs one: it is of another task")
        return task, None
    if task.labels:
        return task, class_order(task.labels, names, name, NAMED_IN)
    if unnamed(names, names):
        raise EvaluationError(
            f"{name} has classes without names ({', '.join(names)}): name them in the order of its ids, {remedy}"
        )
    return replace(task, labels=tuple(names)), None


def _check_use(task: Task, part: Split, predictions: Path | None, results: Path | None) -> None:
    """Refuse to compute for nothing."""
    if part.rows.labels is not None:
        return
    if results is not None:
        raise EvaluationError(
            f"the {part.name} split of {task.name} has no labels, so there is no score for {results}: leave --results "
            "out, and give --predictions DIR"
        )
    if predictions is None:
        raise EvaluationError(
            f"the {part.name} split of {task.name} has no labels, so there is nothing to score: give --predictions DIR"
        )


def _scored(
    name: str, model: PreTrainedModel, order: Sequence[int] | None, opened: OpenTask, part: Split, micro_size: int
) -> Scored:
    """Outputs in the task's order of classes, and their scores."""
    check_ids(part.rows, model.config, name)
    asked = TaskTeacher(model, opened.task.kind, order).to(dist.device())
    outputs = predict(asked.targets, part.rows, opened.task.kind, pad_id=opened.pad_id, micro_size=micro_size)
    return scored(opened, part, outputs)


def _of_origin(name: str, origin: Origin, fingerprint: str | None) -> dict[str, Any]:
    """Fields of a line that say where a model comes from."""
    config, recipe = origin.config, origin.recipe
    own = origin.result if fingerprint is not None and origin.result.get("fingerprint") == fingerprint else {}
    parents = {parent["role"]: parent for parent in recipe.get("parents", [])}
    return {
        "name": name,
        "model": config.get("model", {}).get("init", name),
        "references": {},
        "seed": config.get("seed"),
        "steps": recipe.get("steps"),
        "best_step": recipe.get("best_step"),
        "lock": config.get("lock"),
        "fingerprint": fingerprint,
        "init_fingerprint": parents.get("init", {}).get("fingerprint"),
        "distilled": bool(config["objective"]["kd_weight"]) if "objective" in config else None,
        "teacher": (config.get("teacher") or {}).get("init"),
        **{key: own.get(key) for key in HOURS},
    }


def _of_scores(task: Task, part: Split, found: Scored, model: PreTrainedModel) -> dict[str, Any]:
    """Fields of a line that say what a model is worth."""
    scores = {"task": task.name, "split": part.name, "examples": len(part.examples), "metric": task.best}
    return {**scores, "metrics": found.scores, **sparsities(model)}


def _fingerprint(init: str) -> str | None:
    """Of the weights' file; None where they are in several."""
    path = next((found for name in SINGLE if (found := side_file(init, name)) is not None), None)
    return None if path is None else fingerprint_of_file(path)
