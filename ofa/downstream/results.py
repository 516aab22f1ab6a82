"""Rows of `results.jsonl`: what a task model scored, and everything that a reader needs to trust the number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ofa.config import CofiConfig, FinetuneConfig
from ofa.data.tasks import Task
from ofa.downstream.evaluation import Scored
from ofa.files import write_text
from ofa.models.sparsity import sparsities
from ofa.models.structure import structure_statistics
from ofa.run_files import read_json
from ofa.run_folder import surroundings

RESULTS_FILE = "results.jsonl"

HOURS = ("seconds", "device_hours", "device_hours_with_parents", "parents_without_hours")
"""What a run and the models that it came from have cost."""


def table_row(name: str, own: Mapping[str, Scored], model: PreTrainedModel | None) -> dict[str, Any]:
    """A row of result.json: scores by metric, those of further splits with the split's name behind it."""
    row: dict[str, Any] = {"name": name}
    for split, found in own.items():
        suffix = split.removeprefix("validation")
        row |= {f"{key}{suffix}": value for key, value in found.scores.items()}
    return row | (sparsities(model) if model is not None else {})


def result_row(config: FinetuneConfig, name: str, result: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A line of results.jsonl, from a run's result; the last of its rows is that of its own model."""
    *others, row = result["rows"]
    places = {"name", "encoder_sparsity", "scope_sparsity", "model_sparsity"}
    return {
        "name": name,
        "model": config.model.init,
        "task": task.name,
        "metric": task.best,
        "metrics": {key: value for key, value in row.items() if key not in places},
        "references": {one["name"]: {k: v for k, v in one.items() if k not in places} for one in others},
        **{key: row[key] for key in sorted(places - {"name"})},
        "seed": config.seed,
        "steps": result["steps"],
        "best_step": result["best_step"],
        "lock": config.lock,
        "fingerprint": result["fingerprint"],
        "init_fingerprint": result["init_fingerprint"],
        "distilled": _is_distilled(config),
        "teacher": config.teacher.init if config.teacher else None,
        **({"structure": structure_statistics(result["structure"])} if "structure" in result else {}),
        **{key: result[key] for key in ("bits", "preset") if key in result},
        **{key: result[key] for key in HOURS},
        **surroundings(),
    }


def _is_distilled(config: FinetuneConfig) -> bool:
    """By the teacher's outputs or by its layers."""
    of_layers = config.objective.layer_weight if isinstance(config, CofiConfig) else 0.0
    return bool(config.objective.kd_weight or of_layers)


def write_row(folder: Path, row: Mapping[str, Any]) -> None:
    """The only line of a run's own results.jsonl."""
    write_text(folder / RESULTS_FILE, json.dumps(row) + "\n")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One more line of a results.jsonl that many evaluations share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def device_hours_of(config: FinetuneConfig) -> tuple[float, list[str]]:
    """What went into the base and the teacher of a run, with all that these came from, each run once (OFA-40).

    Returns:
        Device hours of those that are runs of ours, beside whose models their results stand; and the others, by the
        names that configs give them: a dense model of the hub has cost something, but nobody here knows what.
    """
    waiting, hours, unknown = _inits(config.model_dump()), {}, []
    while waiting:
        init = waiting.pop()
        folder = Path(init).expanduser().resolve().parent
        if folder in hours:
            continue  # a dense model is often the parent of base and teacher both
        result, record = folder / "result.json", folder / "config.json"
        is_ours = result.is_file() and record.is_file()
        hours[folder] = read_json(result).get("device_hours") if is_ours else None
        if hours[folder] is None:
            unknown.append(init)
        waiting += _inits(read_json(record)["config"]) if is_ours else []
    return sum(spent for spent in hours.values() if spent is not None), sorted(unknown)


def _inits(config: Mapping[str, Any]) -> list[str]:
    """Models that a run begins with or learns from."""
    sections = (config.get("model"), config.get("teacher"))
    return [section["init"] for section in sections if section and section.get("init")]
