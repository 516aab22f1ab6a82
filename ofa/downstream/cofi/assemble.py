"""From a CoFi config to the parts of its two runs."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ofa import dist
from ofa.checkpoint import INDEX, Start
from ofa.config import CofiConfig
from ofa.downstream.assemble import TaskParts, build_run, lock_of, open_parts, teacher_of
from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.choose import costs_of, families, search_of
from ofa.downstream.cofi.describe import read_structure, write_structure
from ofa.downstream.cofi.finalise import check_multiple, check_target, reachable
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.pruner import StructurePruner
from ofa.downstream.cofi.runs import CofiRun, CompactRun, GatedRun
from ofa.downstream.cofi.stages import CompactClock, GatedClock, Stages
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.training import CofiTeacher, CofiTraining
from ofa.engine.engine import Engine
from ofa.models.adapters import scope, shape
from ofa.models.blocks import blocks_of
from ofa.models.build import seeded
from ofa.models.materialise import materialise, prunable_parameters, slice_masks
from ofa.models.structure import Sizes, StructureMasks
from ofa.models.task_models import load_task_teacher
from ofa.models.task_training import TaskTeacher
from ofa.parts import compute_dtype, parent
from ofa.run import Teaches
from ofa.run_folder import RunFolder, read_json

LOG = logging.getLogger(__name__)

ROOM = 12.0
"""Updates times learning rate in which gates, which start at 4.5 and close at -1.6, follow a target; measured without a
task: with half of it they were 2 to 4 points behind at 95 %."""


def assemble(config: CofiConfig, folder: RunFolder, start: Start | None, *, name: str) -> CofiRun:
    """The run of the stage at which this process begins (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    parts = open_parts(config, folder)
    if getattr(parts.model.config, "structure", None) is not None:
        raise ValueError(
            f"model.init {config.model.init} is a compact model already: give the dense one that it was cut out of, or "
            "train it on with launch/finetune.py"
        )
    stages = Stages.of(config, parts.loader.total_steps)
    costs = costs_of(config, parts, folder)
    check_target(costs, families(config), config.structure.sparsity)
    check_multiple(costs.sizes, config.structure.multiple)
    if config.structure.method == "gates":
        _warn_of_a_short_ramp(config, stages)
    step = 0 if start is None else read_json(start.path / INDEX)["step"]
    if step <= stages.pruned:
        return _gated_run(config, folder, start, parts, stages, costs, name=name)
    assert start is not None
    masks = dist.on_every_rank(lambda: _structure_of(start.path, folder, costs.sizes))
    small = cut(config, parts, parts.model, masks)
    return compact_run(config, folder, start, small, stages, costs, masks, name=name)


def _structure_of(checkpoint: Path, folder: RunFolder, sizes: Sizes) -> StructureMasks:
    """The structure that stage three of a checkpoint's run has; it may be another run's, and then is written down here
    too."""
    beside = (parent / folder.structure.name for parent in checkpoint.resolve().parents)
    masks = read_structure(next((path for path in beside if path.is_file()), folder.structure), sizes)
    if dist.rank() == 0 and not folder.structure.is_file():
        write_structure(folder.structure, masks)
    return masks


def cut(config: CofiConfig, parts: TaskParts, dense: PreTrainedModel, masks: StructureMasks) -> TaskParts:
    """The parts with the small model that masks of 0 and 1 leave of a dense one, and the lock's masks cut alike."""
    small = materialise(dense, masks, config.structure.dead_sublayer)
    keep = slice_masks(parts.keep, dense, masks, config.structure.dead_sublayer)
    patterns = {name: parts.patterns[name] for name in keep}
    return replace(parts, model=small.train(), scoped=scope(small), keep=keep, patterns=patterns)


def compact_run(
    config: CofiConfig,
    folder: RunFolder,
    start: Start | None,
    parts: TaskParts,
    stages: Stages,
    costs: Costs,
    masks: StructureMasks,
    *,
    name: str,
    layers: LayerDistillation | None = None,
    **more: Any,
) -> CompactRun:
    """Stage three around the small model (a collective call).

    Args:
        config: of the run.
        folder: its folder.
        start: a checkpoint of this stage; None: it begins.
        parts: with the small model.
        stages: of the run.
        costs: that the structure was cut by.
        masks: the structure, in the sizes of the dense model.
        name: what people call the run.
        layers: as the stages before have trained it; None: new, where one is wanted.
        more: fields of the run that go on from the stages before.
    """
    structure = Structure(None, masks.alive_layers().to(dist.device()))
    teacher, teacher_model = _teacher(config, folder, parts, stages, structure)
    if layers is None:
        hidden = costs.sizes.hidden if masks.hidden is None else int((masks.hidden > 0).sum())
        layers = _layers(config, hidden, teacher_model)
    return build_run(
        CompactRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=CompactClock(config, stages),
        module=CofiTraining(parts.model, parts.data.task.kind, config.objective, structure, layers),
        teacher=teacher,
        teacher_model=teacher_model,
        pruner=lambda engine: StructurePruner(lock_of(config, parts, engine.weights), None, structure),
        last_step=stages.total,
        stages=stages,
        costs=costs,
        structure=structure,
        masks=masks,
        weights=prunable_parameters(parts.model),
        **more,
    )


def _warn_of_a_short_ramp(config: CofiConfig, stages: Stages) -> None:
    """Gates that cannot follow the target are cut to it all at once at the end, which training has not seen."""
    needed, ramp = math.ceil(ROOM / config.structure.lr), stages.ramp_end - stages.begin
    if ramp < needed and dist.rank() == 0:
        LOG.warning(
            "the target rises within %d steps, and at structure.lr %g gates need about %d to follow: raise "
            "structure.ramp_epochs or structure.lr",
            ramp,
            config.structure.lr,
            needed,
        )


def _gated_run(
    config: CofiConfig,
    folder: RunFolder,
    start: Start | None,
    parts: TaskParts,
    stages: Stages,
    costs: Costs,
    *,
    name: str,
) -> GatedRun:
    """Stages one and two around the dense model (a collective call)."""
    structure = Structure(
        MaskedForward(parts.model, dead_sublayer=config.structure.dead_sublayer),
        StructureMasks.ones(costs.sizes, device=dist.device()).alive_layers(),
    )
    teacher, teacher_model = _teacher(config, folder, parts, stages, structure)
    layers = _layers(config, costs.sizes.hidden, teacher_model)
    blocks = blocks_of(parts.model)  # ZeRO 3 leaves nothing of the weights to measure

    def pruner(engine: Engine) -> StructurePruner:
        search = search_of(config, parts, blocks, engine, stages, costs, structure)
        lock = lock_of(config, parts, engine.weights)
        return StructurePruner(lock, search, structure, begin=stages.begin, restart=engine.restart_optimizer)

    return build_run(
        GatedRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=GatedClock(config, stages, reachable(costs, families(config))[0]),
        module=CofiTraining(parts.model, parts.data.task.kind, config.objective, structure, layers),
        teacher=teacher,
        teacher_model=teacher_model,
        pruner=pruner,
        last_step=stages.total,
        made_of=parts,
        stages=stages,
        costs=costs,
        structure=structure,
    )


def _teacher(
    config: CofiConfig, folder: RunFolder, parts: TaskParts, stages: Stages, structure: Structure
) -> tuple[Teaches | None, PreTrainedModel | None]:
    """What the student learns from, and the model that is asked in every step; its layers are shown where they are
    distilled (a collective call)."""
    if config.teacher is None:
        return None, None
    if not config.objective.layer_weight:
        teacher, its_parent = teacher_of(config, parts.data, stages.total, folder)
        model = teacher.model if isinstance(teacher, TaskTeacher) else None
    else:
        data, how = parts.data, config.objective.teacher_layers
        model, order = load_task_teacher(config.teacher, data.task, data.labels, data.tokenizer, config.model.attention)
        its_parent = parent("teacher", config.teacher.init, model)
        teacher = CofiTeacher(model, data.task.kind, order, structure, how, config.seed)
        teacher.to(dist.device(), compute_dtype(config))
    if its_parent not in parts.parents:
        parts.parents.append(its_parent)
    return teacher, model


def _layers(config: CofiConfig, hidden: int, teacher: PreTrainedModel | None) -> LayerDistillation | None:
    """What compares hidden states, where they are compared."""
    if not config.objective.layer_weight or teacher is None:
        return None
    with seeded(config.seed):
        return LayerDistillation(hidden, shape(teacher.config).hidden)
