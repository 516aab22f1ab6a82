"""First ranges: what the float model shows on the first training batches."""

from __future__ import annotations

import logging
import math

import torch

from ofa import dist
from ofa.data.task_batches import TaskLoader
from ofa.downstream.qat.training import QatTraining

LOG = logging.getLogger(__name__)


@torch.no_grad()
def calibrate(module: QatTraining, loader: TaskLoader, *, rows: int, global_size: int, split_rows: int) -> None:
    """Measure the mean over global batches of their ranges, in evaluation mode (a collective call).

    Batches are those with which training begins, a pure function of their numbers, so every start of a run measures the
    same.

    Args:
        module: its quantisers get their ranges.
        loader: of the training split.
        rows: how many are read, rounded up to whole global batches; no more than an epoch.
        global_size: rows of a global batch.
        split_rows: of the training split.

    Raises:
        CalibrationError: a place saw nothing, or no finite values.
    """
    batches = math.ceil(min(rows, split_rows) / global_size)
    was_training, ranges = module.training, module.quantisers.ranges
    module.eval()
    with module.quantisers.calibrating():
        for number in range(batches):
            for batch in loader.global_batch(number)[1]:
                module(batch.to(dist.device()))
            ranges.commit(1 / (number + 1))
    module.train(was_training)
    ranges.begin()
    LOG.info("calibrated on %d rows: ranges of %d activations", batches * global_size, len(ranges.names))
