"""Fine-tuning in 8 bits: the module that the engine trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ofa.config import TaskObjectiveConfig
from ofa.data.task_batches import TaskBatch, TaskTotals
from ofa.data.tasks import Kind
from ofa.downstream.qat.quantisers import FakeQuantisers
from ofa.models.task_training import TaskTraining


class QatTraining(TaskTraining):
    """A stock task model under quantisers, with its losses. Quantisers are no module: see
    `ofa.models.task_training.TaskTraining` for what goes in and out."""

    def __init__(self, model: PreTrainedModel, kind: Kind, objective: TaskObjectiveConfig, quantisers: FakeQuantisers):
        super().__init__(model, kind, objective)
        self.quantisers = quantisers

    def forward(
        self, batch: TaskBatch, totals: TaskTotals | None = None, targets: Tensor | None = None, scale: float = 1.0
    ) -> Any:
        """The same, with the tokens that count shown to the observers."""
        watched = self.quantisers.watched
        self.quantisers.enter(batch.attention_mask.bool() if watched else None, training=self.training)
        return super().forward(batch, totals, targets, scale)
