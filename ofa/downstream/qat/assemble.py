"""From a config of quantisation-aware training to the parts of its run."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from ofa import dist
from ofa.checkpoint import Start
from ofa.config import QatConfig, QuantizationConfig
from ofa.downstream.assemble import build_task_run, open_parts, schedule_of, teacher_of
from ofa.downstream.qat.calibrate import calibrate
from ofa.downstream.qat.observers import Ranges
from ofa.downstream.qat.prepare import sites_of
from ofa.downstream.qat.pruner import QatPruner, QatSchedule
from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.downstream.qat.runs import QatRun
from ofa.downstream.qat.training import QatTraining
from ofa.downstream.qat.weights import MeasuredScales
from ofa.engine.engine import Engine
from ofa.parts import lock_of
from ofa.recipe import Recipe
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)


def quantised(model: PreTrainedModel, settings: QuantizationConfig, device: torch.device | str) -> FakeQuantisers:
    """Place quantisers in a model, their ranges not yet measured.

    Raises:
        AdapterError, PreparationError: as `ofa.downstream.qat.prepare.sites_of`.
    """
    sites = sites_of(model, settings)
    ranges = Ranges(sites.places(), constant=settings.observer_constant, device=device)
    return FakeQuantisers(model, sites, ranges, MeasuredScales(settings, sites, device))


def assemble(config: QatConfig, folder: RunFolder, start: Start | None, *, name: str) -> QatRun:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    parts, asked = open_parts(config, folder), config.quantization
    steps = schedule_of(config, parts.loader)
    schedule = QatSchedule.of(asked.begin_step, asked.freeze_share, steps.total_steps)
    quantisers = quantised(parts.model, asked, dist.device())
    LOG.info("in 8 bits from step %d, ranges move until step %d", schedule.begin, schedule.freeze)
    LOG.info("quantised: %s", quantisers.sites.in_words())
    teacher = None
    if config.teacher is not None:
        teacher, its_parent = teacher_of(config, parts.data, steps.total_steps, folder)
        parts.parents.append(its_parent)
    module = QatTraining(parts.model, parts.data.task.kind, config.objective, quantisers)

    def measure() -> None:
        split_rows = len(parts.data.train.rows)
        rows, size = asked.calibration_rows, config.batch.global_size
        calibrate(module, parts.loader, rows=rows, global_size=size, split_rows=split_rows)

    def pruner(engine: Engine) -> QatPruner:
        return QatPruner(lock_of(parts, engine.weights, wanted=config.lock), quantisers, schedule, measure)

    return build_task_run(
        QatRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=Recipe.of(steps, config.optimizer.lr),
        module=module,
        teacher=teacher,
        pruner=pruner,
        quantisers=quantisers,
    )
