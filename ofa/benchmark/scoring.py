"""How good the models are that are timed: each answers the validation split of their task on its own runtime.

In: models, and what the caller says of the task. Out: scores by model, or why there are none. Without a word of the
caller's the task is the one that they were fine-tuned on, if one of them says where its files are and they are there;
nothing is fetched for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ofa.benchmark.measure import say
from ofa.benchmark.models import BenchmarkError, Model
from ofa.config import TaskConfig
from ofa.data.tasks import task_for
from ofa.downstream.evaluate_model import origin_of, task_config
from ofa.downstream.evaluation import scored
from ofa.inference import load

HOW = "give --task and --path"


@dataclass(frozen=True)
class Asked:
    """What the caller says of the task."""

    task: str | None = None
    path: str | None = None
    rows: int | None = None
    """From the first; None: all."""
    overrides: tuple[str, ...] = ()
    """Further values of the task's section, `task.KEY=VALUE`."""

    @property
    def given(self) -> bool:
        """Whether scores are asked for: then nothing else will do."""
        return self != Asked()


@dataclass(frozen=True)
class Scores:
    """What came out."""

    of: str
    """`sst2, validation: 872 examples`; without scores why there are none."""
    metric: str | None = None
    """That leads."""
    found: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    """By `Place.key`: all metrics."""

    def leading(self, key: tuple[str, str]) -> float | None:
        """The leading metric of a model."""
        return self.found[key][self.metric] if self.metric is not None else None


def sections(models: Sequence[Model], asked: Asked) -> list[TaskConfig] | str:
    """How each model's rows are made, or why none is scored.

    Raises:
        BenchmarkError: scores are asked for, and no task or no files are known.
        ValueError: as `task_config`.
    """
    try:
        return _sections(models, asked)
    except ValueError as error:
        if asked.given:
            raise
        return str(error)


def _sections(models: Sequence[Model], asked: Asked) -> list[TaskConfig]:
    recorded = [origin_of(model.place.folder).task for model in models]
    name = asked.task or next((one["name"] for one in recorded if "name" in one), None)
    if name is None:
        raise BenchmarkError(f"no model says which task it was fine-tuned on: {HOW}")
    paths = [one["path"] for one in recorded if one.get("path") and one["name"] == name]
    path = asked.path or next((one for one in paths if Path(one).expanduser().is_dir()), None)
    if path is None:
        where = f"trained on {paths[0]}, which is no folder here" if paths else "and no model says where its files are"
        raise BenchmarkError(f"the task is {name}, {where}: {HOW}")
    rows = [] if asked.rows is None else [f"task.validation_rows={asked.rows}"]
    return [
        task_config(model.place.folder, own, task=name, path=path, overrides=[*asked.overrides, *rows])
        for model, own in zip(models, recorded, strict=True)
    ]


def score(models: Sequence[Model], asked: Asked, *, threads: int) -> Scores:
    """Score all models, one after the other.

    Raises:
        ValueError: as `sections`; a model has other classes than the task, a file of the task is damaged, or a model's
            output is not finite.
    """
    configs = sections(models, asked)
    if isinstance(configs, str):
        return Scores(configs)
    found, of = {}, ""
    for model, config in zip(models, configs, strict=True):
        predictor = load(model.place.folder, threads=threads, device="cpu", task=config)
        split = predictor.opened.read("validation")
        values = scored(predictor.opened, split, predictor.outputs(split.rows)).scores
        of = f"{config.name}, validation: {len(split.examples):,} examples"
        metric = task_for(config).best
        found[model.place.key] = values
        say(f"{model.place.in_words()}: {metric} {values[metric]:.4f} ({of})")
    return Scores(of, task_for(configs[0]).best, found)
