"""The end of a run: export the model, score it beside what it came from, write result.json and the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ofa import dist
from ofa.assemble import PretrainingRun
from ofa.evaluate import masked_lm_score, reference_rows
from ofa.export.from_state import fill
from ofa.export.hf import export_model
from ofa.export.recipe_file import describe_run
from ofa.models.build import load_teacher
from ofa.models.pretraining import MaskedLanguageModeling
from ofa.models.sparsity import sparsities
from ofa.report import build_report, show_result
from ofa.run_files import write_json
from ofa.run_folder import versions

LOG = logging.getLogger(__name__)


def finish(run: PretrainingRun) -> None:
    """Export, score and report (a collective call); prints the table on rank 0."""
    state = run.engine.full_state_dict(run.module.model)
    keep = {name: mask.cpu() for name, mask in run.pruner.keep.items()}
    exported = fill(run.module.model, state, keep)
    rows = [*_references(run), _own_row(run, exported)]
    if dist.rank() == 0:
        recipe = describe_run(
            run.described(),
            name=run.name,
            steps=run.recipe.total_steps,
            parents=run.parents,
            data={"name": Path(run.run_config.data.path).name, "fingerprint": run.data_fingerprint},
            versions=versions(),
        )
        recipe |= run.more_for_the_recipe() | run.locked()
        export_model(run.folder.model, exported.cpu(), run.corpus.tokenizer_path, keep, recipe)
        run.journal.metrics.close()
        write_json(run.folder.result, _result(run, rows))
        run.checkpoints.close()
        build_report(run.folder.path)  # also over one that was asked for while the run went on
        show_result(run.folder)
    dist.barrier()


def _references(run: PretrainingRun) -> list[dict[str, Any]]:
    """What a pruned run came from: its teacher, its start, that pruned in one shot where weights are, and the floor."""
    config, rows = run.run_config, []
    start = "dense teacher" if config.teacher and config.teacher.init == config.model.init else "dense start"
    if config.teacher is not None and start != "dense teacher":
        rows.append(_score(run, "dense teacher", load_teacher(config.teacher, config.model)))
    if config.prunes:
        LOG.info("scoring what the run started from, as it was and with its scope all zero")
        rows += reference_rows(
            config.model,
            config.objective,
            seed=config.seed,
            pruning=config.pruning,
            validation=run.validation,
            start=start,
        )
    return rows


def _own_row(run: PretrainingRun, exported: PreTrainedModel) -> dict[str, Any]:
    """The exported weights, in fp32 as the references are, whatever precision the run had."""
    return _score(run, run.made, exported) | run.more_for_the_row()


def _score(run: PretrainingRun, name: str, model: PreTrainedModel) -> dict[str, Any]:
    module = MaskedLanguageModeling(model, run.run_config.objective).to(dist.device())
    return {"name": name, **masked_lm_score(module, run.validation()), **sparsities(model)}


def _result(run: PretrainingRun, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rows": rows,
        "steps": run.recipe.total_steps,
        "seconds": round(run.total_seconds(), 1),
        "device_hours": round(run.total_seconds() * dist.world_size() / 3600, 4),
        "tokens_per_second": run.journal.meter.mean_rate(),
        "peak_tflops": run.journal.meter.peak_flops / 1e12,
        "model": str(run.folder.model),
        "report": str(run.folder.report),
        "tensorboard": str(run.folder.tensorboard),
        **run.more_for_the_result(),
    }
