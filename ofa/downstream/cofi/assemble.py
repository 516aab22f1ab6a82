"""From a CoFi config to the parts of its two runs, whatever they train on (`ofa.downstream.cofi.subjects`)."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ofa import dist
from ofa.checkpoint import INDEX, Start
from ofa.config import AnyCofiConfig
from ofa.downstream.cofi.choose import costs_of, families, search_of, weight_costs
from ofa.downstream.cofi.describe import read_structure, write_structure
from ofa.downstream.cofi.finalise import check_target, reachable
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.pruner import StructurePruner
from ofa.downstream.cofi.runs import CofiRun, CompactRun, Frame, GatedRun
from ofa.downstream.cofi.stages import CompactClock, GatedClock, Stages
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.subjects import rounded_up, subject_of
from ofa.downstream.cofi.training import CofiTeacher
from ofa.engine.engine import Engine
from ofa.models.adapters import scope, shape
from ofa.models.blocks import blocks_of
from ofa.models.build import seeded
from ofa.models.compile import compile_if_asked
from ofa.models.materialise import materialise, prunable_parameters, slice_masks
from ofa.models.structure import Sizes, StructureMasks
from ofa.parts import Parts, lock_of
from ofa.run import Teaches
from ofa.run_files import read_json
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)

ROOM = 12.0
"""Updates times learning rate in which gates, which start at 4.5 and close at -1.6, follow a target; measured without a
task: with half of it they were 2 to 4 points behind at 95 %."""


def assemble(config: AnyCofiConfig, folder: RunFolder, start: Start | None, *, name: str) -> CofiRun:
    """The run of the stage at which this process begins (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    subject = subject_of(config)
    parts = subject.open_parts(config, folder)
    costs = costs_of(config, parts, folder), weight_costs(parts.model.config)
    frame = Frame(config, folder, name, subject.stages(config, parts), *costs)
    check_target(frame.costs, families(config), config.structure.sparsity)
    if config.structure.method == "gates":
        _warn_of_a_short_ramp(config, parts, frame.stages)
    step = 0 if start is None else read_json(start.path / INDEX)["step"]
    if step <= frame.stages.pruned:
        return _gated_run(frame, start, parts)
    assert start is not None
    masks = dist.on_every_rank(lambda: _structure_of(start.checkpoint, folder, frame.costs.sizes))
    teacher = _teacher(frame, parts)
    return compact_run(frame, start, cut(config, parts, parts.model, masks), masks, teacher=teacher)


def _structure_of(checkpoint: Path, folder: RunFolder, sizes: Sizes) -> StructureMasks:
    """The structure that stage three of a checkpoint's run has; it may be another run's, and then is written down here
    too, in place of any that this folder has from before."""
    beside = (parent / folder.structure.name for parent in checkpoint.resolve().parents)
    found = next((path for path in beside if path.is_file()), folder.structure)
    masks = read_structure(found, sizes)
    if dist.rank() == 0 and found.resolve() != folder.structure.resolve():
        write_structure(folder.structure, masks)
    return masks


def cut(config: AnyCofiConfig, parts: Parts, dense: PreTrainedModel, masks: StructureMasks) -> Parts:
    """The parts with the small model that masks of 0 and 1 leave of a dense one, and the lock's masks cut alike."""
    small = materialise(dense, masks, config.structure.dead_sublayer)
    keep = slice_masks(parts.keep, dense, masks, config.structure.dead_sublayer)
    patterns = {name: parts.patterns[name] for name in keep}
    return replace(parts, model=small.train(), scoped=scope(small), keep=keep, patterns=patterns)


def compact_run(
    frame: Frame,
    start: Start | None,
    parts: Parts,
    masks: StructureMasks,
    *,
    teacher: Teaches | None,
    layers: LayerDistillation | None = None,
    **more: Any,
) -> CompactRun:
    """Stage three around the small model (a collective call).

    Args:
        frame: of the run.
        start: a checkpoint of this stage; None: it begins.
        parts: with the small model.
        masks: the structure, in the sizes of the dense model.
        teacher: of the run, in this process.
        layers: as the stages before have trained it; None: new, where one is wanted.
        more: fields of the run that go on from the stages before.
    """
    config, structure = frame.config, Structure(None, masks.alive_layers().to(dist.device()))
    if layers is None:
        hidden = frame.costs.sizes.hidden if masks.hidden is None else int((masks.hidden > 0).sum())
        layers = _layers(config, hidden, teacher)

    compile_if_asked(config.engine, [parts.model])

    def pruner(engine: Engine) -> StructurePruner:
        return StructurePruner(lock_of(parts, engine.weights, wanted=config.lock), None, structure)

    more |= {"masks": masks, "encoder_weights": prunable_parameters(parts.model), "pruner": pruner}
    clock = CompactClock(config, frame.stages)
    return _build(subject_of(config).compact, frame, start, parts, structure, clock, teacher, layers, **more)


def _warn_of_a_short_ramp(config: AnyCofiConfig, parts: Parts, stages: Stages) -> None:
    """Gates that cannot follow the target are cut to it all at once at the end, which training has not seen."""
    needed, ramp = math.ceil(ROOM / config.structure.lr), stages.ramp_end - stages.begin
    if ramp >= needed or dist.rank() != 0:
        return
    key, length, steps = subject_of(config).ramp(config, parts, needed)
    ways = [f"structure.{key}={length:.12g}"]
    if stages.begin + steps >= stages.pruned:
        ways[0] += f", with a schedule of more than {stages.begin + steps} steps"
    ways += [f"structure.lr={rounded_up(ROOM / ramp):g}"] if ramp else []
    LOG.warning(
        "the target rises within %d steps, and at structure.lr %g gates need about %d to follow: set %s",
        ramp,
        config.structure.lr,
        needed,
        "; or ".join(ways),
    )


def _gated_run(frame: Frame, start: Start | None, parts: Parts) -> GatedRun:
    """Stages one and two around the dense model (a collective call)."""
    config, stages, costs = frame.config, frame.stages, frame.costs
    structure = Structure(
        MaskedForward(parts.model, dead_sublayer=config.structure.dead_sublayer),
        StructureMasks.ones(costs.sizes, device=dist.device()).alive_layers(),
    )
    compile_if_asked(config.engine, [parts.model])
    teacher = _teacher(frame, parts)
    layers = _layers(config, costs.sizes.hidden, teacher)
    blocks = blocks_of(parts.model)  # ZeRO 3 leaves nothing of the weights to measure

    def pruner(engine: Engine) -> StructurePruner:
        search = search_of(config, parts, blocks, engine, stages, costs, structure)
        lock = lock_of(parts, engine.weights, wanted=config.lock)
        return StructurePruner(lock, search, structure, begin=stages.begin, restart=engine.restart_optimizer)

    clock = GatedClock(config, stages, reachable(costs, families(config))[0])
    kind = subject_of(config).gated
    return _build(kind, frame, start, parts, structure, clock, teacher, layers, made_of=parts, pruner=pruner)


def _build(
    kind: type[Any],
    frame: Frame,
    start: Start | None,
    parts: Parts,
    structure: Structure,
    clock: GatedClock | CompactClock,
    teacher: Teaches | None,
    layers: LayerDistillation | None,
    **more: Any,
) -> Any:
    """A run of either kind (a collective call); a teacher that shows its layers follows its steps."""
    subject = subject_of(frame.config)
    if isinstance(teacher, CofiTeacher):
        teacher.structure = structure
    return subject.build(
        kind,
        frame.config,
        frame.folder,
        start,
        parts,
        name=frame.name,
        recipe=clock,
        module=subject.module(frame.config, parts, structure, layers),
        teacher=teacher,
        last_step=frame.stages.total,
        frame=frame,
        structure=structure,
        **more,
    )


def _teacher(frame: Frame, parts: Parts) -> Teaches | None:
    """What the student learns from; its layers are shown where they are distilled (a collective call)."""
    config = frame.config
    if config.teacher is None:
        return None
    shows = bool(config.objective.layer_weight)
    subject = subject_of(config)
    teacher, its_parent = subject.teacher(config, parts, frame.folder, frame.stages.total, live=shows)
    parts.parents.append(its_parent)
    return CofiTeacher(teacher, config.objective.teacher_layers, config.seed) if shows else teacher


def _layers(config: AnyCofiConfig, hidden: int, teacher: Teaches | None) -> LayerDistillation | None:
    """What compares hidden states, where they are compared."""
    if not isinstance(teacher, CofiTeacher):
        return None
    with seeded(config.seed):
        return LayerDistillation(hidden, shape(teacher.model.config).hidden)
