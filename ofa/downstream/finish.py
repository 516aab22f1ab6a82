"""The end of a fine-tuning run: export the best checkpoint, score it beside what it came from, write predictions,
result.json, results.jsonl and the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa import dist
from ofa.downstream.assemble import FinetuningRun
from ofa.downstream.evaluation import Scored, evaluate_split, predict, scored
from ofa.downstream.results import device_hours_of, result_row, table_row, write_row
from ofa.downstream.task_data import Split, tokenizer_folder
from ofa.downstream.write_predictions import write_predictions
from ofa.engine.checkpoint_files import read_checkpoint
from ofa.export.from_state import fill
from ofa.export.hf import export_model
from ofa.export.recipe_file import describe_run, fingerprint_of_file
from ofa.models.adapters import scope
from ofa.models.task_models import load_task_teacher
from ofa.models.task_training import TaskTeacher, TaskTraining
from ofa.report import build_report, show_result
from ofa.run_files import write_json
from ofa.run_folder import versions

LOG = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
"""Folder of a run with the tokenizer of a base model from the hub."""


def finish(run: FinetuningRun) -> None:
    """Export, score and report (a collective call); prints the table on rank 0."""
    step, state = _best_state(run)
    keep = {name: mask.cpu() for name, mask in run.pruner.keep.items()}
    exported = fill(run.module.model, state, keep)
    splits = [run.data.validation, *run.data.others()]
    module = run.module_around(exported)
    own = {split.name: _score(run, module, split) for split in splits}
    rows = [*_references(run, exported), table_row(run.made, own, exported) | run.more_for_the_row()]
    if dist.rank() == 0:
        recipe, side_files = _recipe(run, step, own), run.side_files()
        export_model(
            run.folder.model,
            exported.cpu(),
            tokenizer_folder(run.settings.model.init, run.data.tokenizer, run.folder.path / TOKENIZER),
            keep,
            recipe,
            side_files=side_files,
        )
        for split in splits:
            write_predictions(run.folder.path / "predictions", run.data, split, own[split.name])
        run.journal.metrics.close()
        result = _result(run, rows, step)
        write_row(run.folder.path, result_row(run.settings, run.name, result, run.data.task))
        write_json(run.folder.result, result)  # from here on the run counts as finished
        run.checkpoints.close()
        build_report(run.folder.path)
        show_result(run.folder)
    dist.barrier()


def _best_state(run: FinetuningRun) -> tuple[int, dict[str, Tensor]]:
    """The step with the best score and its fp32 weights; the last one where no step was scored."""
    last = run.recipe.total_steps
    step = run.best[0] if run.best else last
    path = run.checkpoints.at(step)
    if step == last or not dist.on_rank_zero(path.is_dir):
        if step != last:
            LOG.warning("%s with the best score is gone: exporting the last step", path)
        return last, run.engine.full_state_dict(run.module.model)
    LOG.info("step %d of %d has the best %s: exporting it", step, last, run.data.task.best)
    state, client_state = dist.on_every_rank(lambda: read_checkpoint(path, prefix="model."))
    run.take_back(client_state)
    return step, state


def _references(run: FinetuningRun, exported: PreTrainedModel) -> list[dict[str, Any]]:
    """What a task model is held against: its teacher, and what the kind of run names; the most frequent answer for all;
    itself, scope all zero."""
    rows = []
    split = run.data.validation
    if run.settings.teacher is not None:  # read anew: the run has it in its own precision, or its answers only
        dense, order = load_task_teacher(
            run.settings.teacher, run.data.task, run.data.labels, run.data.tokenizer, run.settings.model.attention
        )
        asked, kind = TaskTeacher(dense, run.data.task.kind, order).to(dist.device()), run.data.task.kind
        answers = predict(asked.targets, split.rows, kind, pad_id=run.data.pad_id, micro_size=run.micro_size)
        rows.append(table_row("teacher", {split.name: scored(run.data, split, answers)}, dense))
    for name, model in run.references().items():
        scores = _score(run, TaskTraining(model, run.data.task.kind, run.settings.objective), split)
        rows.append(table_row(name, {split.name: scores}, model))
    constant = _constant(run)
    if constant is not None:
        rows.append(table_row("floor: one answer for all", {split.name: scored(run.data, split, constant)}, None))
    nothing = fill(exported, exported.state_dict(), {})
    with torch.no_grad():
        for weight in scope(nothing).values():
            weight.zero_()
    module = TaskTraining(nothing, run.data.task.kind, run.settings.objective)
    rows.append(table_row("floor: scope all zero", {split.name: _score(run, module, split)}, nothing))
    return rows


def _constant(run: FinetuningRun) -> np.ndarray | None:
    """Outputs that give every row the training split's most frequent class, or its mean; None for questions."""
    kind, labels, rows = run.data.task.kind, run.data.train.rows.labels, run.data.validation.rows
    assert labels is not None
    if kind == "questions":
        return None
    if kind == "regression":
        return np.full(len(rows), labels.mean(), dtype=np.float32)
    shares = np.bincount(labels[labels >= 0], minlength=len(run.data.labels)).astype(np.float64)
    outputs = np.log((shares + 1) / (shares + 1).sum()).astype(np.float32)
    return np.tile(outputs, (len(rows.tokens) if kind == "tokens" else len(rows), 1))


def _score(run: FinetuningRun, module: TaskTraining, split: Split) -> Scored:
    """A module of stock fp32 weights on a split."""
    return evaluate_split(module.to(dist.device()), run.data.task.kind, run.data, split, micro_size=run.micro_size)


def _recipe(run: FinetuningRun, step: int, own: Mapping[str, Scored]) -> dict[str, Any]:
    """What recipe.json says: the steps that the epochs came to, what the exported step scores, and what is locked."""
    recipe = describe_run(
        run.described(),
        name=run.name,
        steps=run.recipe.total_steps,
        parents=run.parents,
        data={"name": run.data.task.name, "fingerprint": run.data_fingerprint},
        versions=versions(),
    )
    recipe |= run.more_for_the_recipe()
    recipe["best_step"] = step
    recipe["scores"] = {split: found.scores for split, found in own.items() if found.scores}
    return recipe | run.locked()


def _result(run: FinetuningRun, rows: list[dict[str, Any]], step: int) -> dict[str, Any]:
    seconds, ranks = run.total_seconds(), dist.world_size()
    own = seconds * ranks / 3600
    parents, unknown = device_hours_of(run.settings)
    best = run.data.task.best
    return {
        "rows": rows,
        "task": run.data.task.name,
        "metrics": list(run.data.task.metrics),
        "metric": best,
        "steps": run.recipe.total_steps,
        "best_step": step,
        "fingerprint": fingerprint_of_file(run.folder.model / "model.safetensors"),
        "init_fingerprint": run.parents[0].fingerprint,
        "seconds": round(seconds, 1),
        "device_hours": round(own, 4),
        "device_hours_with_parents": round(own + parents, 4),
        "parents_without_hours": unknown,
        "tokens_per_second": run.journal.meter.mean_rate(),
        "peak_tflops": run.journal.meter.peak_flops / 1e12,
        "model": str(run.folder.model),
        "report": str(run.folder.report),
        "tensorboard": str(run.folder.tensorboard),
        **run.more_for_the_result(),
    }
