"""CoFi: a small dense model, of a task or of masked words, cut out of a large one while it learns."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from ofa import dist
from ofa.config import AnyCofiConfig, CofiConfig, CofiMlmConfig, ModelConfig
from ofa.data.task_plan import total_steps
from ofa.data.tasks import task_for
from ofa.downstream.cofi.assemble import assemble, compact_run, cut
from ofa.downstream.cofi.choose import check_sizes
from ofa.downstream.cofi.describe import in_words, write_structure
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.runs import CofiRun, CompactMlmRun, CompactRun, CompactTaskRun, GatedRun
from ofa.downstream.cofi.stages import Stages
from ofa.downstream.finish import finish as finish_finetuning
from ofa.downstream.inputs import check_inputs as check_finetuning
from ofa.downstream.inputs import check_models
from ofa.export.from_state import fill
from ofa.finish import finish as finish_pretraining
from ofa.inputs import check_inputs as check_pretraining
from ofa.models.blocks import is_compact
from ofa.models.build import build_config, read_config
from ofa.models.structure import StructureMasks
from ofa.train import Data, Kind, run_to_end

LOG = logging.getLogger(__name__)

FAR = 0.05
"""Difference of expected sparsity and target that is warned of."""


def cofi(
    config: AnyCofiConfig, run_dir: Path, *, name: str, resume: str = "auto", time_limit: float | None = None
) -> int:
    """Do one run and return the process's exit status: see `ofa.train.run_to_end`."""
    return run_to_end(COFI, config, run_dir, name=name, resume=resume, time_limit=time_limit)


def finish(run: CofiRun) -> CofiRun | None:
    """After the stages under masks the run of the small model; after that export, scores and report (a collective
    call)."""
    if isinstance(run, GatedRun):
        return small_from(run)
    if isinstance(run, CompactMlmRun):
        finish_pretraining(run)
    else:
        assert isinstance(run, CompactTaskRun)
        finish_finetuning(run)
    return None


def check_inputs(config: AnyCofiConfig, resume: str) -> Data:
    """Open the task or the corpus.

    Raises:
        ValueError: as of fine-tuning or of pre-training; a model or a structure that cannot be, as far as config.json
            tells; or stages that do not fit, as far as no row has to be read to know how long they are.
    """
    check_model(config)
    if isinstance(config, CofiMlmConfig):
        return check_pretraining(config, resume)
    rows = config.task.train_rows if task_for(config.task).kind != "questions" else None  # these have several each
    if rows is not None:
        Stages.of(config, partial(total_steps, rows, config.batch.global_size))
    return check_finetuning(config, resume)


def check_beforehand(config: AnyCofiConfig) -> None:
    """All that the config.json of its models tells: whether they are of the task, and have the structure.

    Raises:
        ValueError: as of fine-tuning, and of `check_model`.
    """
    if isinstance(config, CofiConfig):
        check_models(config)
    check_model(config)


def check_model(config: AnyCofiConfig) -> None:
    """Hold the structure that is asked for against the config.json of the model that it is to be cut out of.

    Raises:
        ValueError: units were cut out of it already, or it cannot have that structure.
    """
    own = config.model
    if own.init is not None and is_compact(read_config(own.init)):
        raise ValueError(
            f"model.init {own.init} is a compact model already: give the dense one that it was cut out of, or train it "
            "on with launch/finetune.py"
        )
    check_sizes(config, build_config(own) if isinstance(own, ModelConfig) else read_config(own.init))


def small_from(run: GatedRun) -> CompactRun:
    """Make the structure final, cut the small model out and give it an engine of its own (a collective call)."""
    masks = run.hard_masks()
    LOG.info("the dense model under its last masks: %s", run.in_words(run.scores_under(masks)))
    _warn_of_gates_that_are_far(run)
    masks = masks.to("cpu")
    keep = {name: mask.cpu() for name, mask in run.pruner.keep.items()}
    dense = fill(run.module.model, run.engine.full_state_dict(run.module.model), keep)
    parts = cut(run.asked, run.made_of, dense, masks)
    layers = _layers(run, masks)
    if dist.rank() == 0:
        write_structure(run.folder.structure, masks)
        LOG.info(
            "step %d: the structure is final: %g%% asked, %s",
            run.stages.pruned,
            100 * run.asked.structure.sparsity,
            in_words(masks, run.structure_numbers(masks)),
        )
        if not bool(masks.alive_layers().any()):
            LOG.warning(
                "no head and no intermediate dimension is left: the encoder does nothing; choose a structure.sparsity "
                "that leaves some"
            )
    dist.barrier()
    run.journal.metrics.close()
    run.engine.close()
    return compact_run(
        run.frame,
        None,
        parts,
        masks,
        teacher=run.teacher,
        layers=layers,
        start_step=run.stages.pruned,
        batch=run.batch,
        seconds=run.total_seconds(),
    )


def _warn_of_gates_that_are_far(run: GatedRun) -> None:
    """What training has seen last is then another structure than the one that is cut out."""
    target, found = run.asked.structure.sparsity, run.more_for_the_line()
    expected = found.get("expected_sparsity", target)
    if abs(expected - target) > FAR:
        LOG.warning(
            "the gates stand at an expected sparsity of %.3f and the target is %.3f: units are cut that were open, or "
            "kept that were closed; train longer under gates, or change structure.lr",
            expected,
            target,
        )


def _layers(run: GatedRun, masks: StructureMasks) -> LayerDistillation | None:
    """What compares hidden states, as it was trained, for the hidden dimensions that are left."""
    layers = run.module.layers
    if layers is None:
        return None
    state = run.engine.full_state_dict(layers)
    weight = state["weight"] if masks.hidden is None else state["weight"][:, masks.hidden > 0]
    small = LayerDistillation(weight.shape[1], weight.shape[0])
    small.load_state_dict({**state, "weight": weight})
    return small


COFI: Kind[AnyCofiConfig, CofiRun] = Kind(check_inputs, assemble, finish)
