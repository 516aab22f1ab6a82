"""CoFi around a stock task model: the module that the engine trains, and its teacher.

In: micro-batches of `ofa.data.task_batches`. Out: the losses of `ofa.models.task_training`, computed under the masks of
the moment, and the distance of the student's layers to the teacher's:

    ce_weight * label loss + kd_weight * distillation + layer_weight * squared distance of matched layers

(CoFi, Xia et al. 2022, section 2.3). The same module serves the small model of the last stage, which has no masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.config import CofiObjectiveConfig
from ofa.data.task_batches import TaskBatch, TaskTotals
from ofa.data.tasks import Kind
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.matching import chosen_layers
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.downstream.cofi.structure import Structure
from ofa.models.task_training import TaskTeacher, TaskTraining


@dataclass(frozen=True)
class CofiTargets:
    """What a teacher says about one micro-batch."""

    logits: Tensor
    """As of `TaskTeacher.targets`."""
    layers: Tensor
    """[K, B, S, d], hidden states behind its chosen layers, in order."""


class CofiTraining(TaskTraining):
    """A stock task model with its losses, under masks, its layers taught."""

    def __init__(
        self,
        model: PreTrainedModel,
        kind: Kind,
        objective: CofiObjectiveConfig,
        structure: Structure,
        layers: LayerDistillation | None,
    ):
        """
        Args:
            model: stock, or compact.
            kind: of task.
            objective: weights of the losses.
            structure: says which masks; not a module, so that the engine does not find the gates.
            layers: what compares hidden states; None: they are not.
        """
        super().__init__(model, kind, objective)
        self.layers = layers
        self._structure = structure
        self._layer_weight, self._matching = objective.layer_weight or 0.0, objective.matching
        self._recorder = LayerRecorder(model) if layers is not None else None

    def forward(
        self,
        batch: TaskBatch,
        totals: TaskTotals | None = None,
        targets: Tensor | CofiTargets | None = None,
        scale: float = 1.0,
    ) -> Any:
        """As `TaskTraining.forward`, with the term `layer` where layers are taught, and how far each of the teacher's
        is matched: `match.1` and so on, the mean number of the student's layer times the micro-batch's share."""
        alive = self._structure.enter(training=self.training)
        logits_of_teacher = targets.logits if isinstance(targets, CofiTargets) else targets
        found = super().forward(batch, totals, logits_of_teacher, scale)
        states = self._recorder.take() if self._recorder is not None else []
        if totals is None or self.layers is None or not isinstance(targets, CofiTargets):
            return found
        loss, terms = found
        distance, matched = self.layers(states, targets.layers, batch.attention_mask, alive, self._matching)
        distance = distance / totals.tokens
        share = batch.attention_mask.sum() / totals.tokens
        terms |= {"layer": distance.detach()}
        terms |= {f"match.{place}": (layer + 1) * share for place, layer in enumerate(matched, 1)}
        return loss + self._layer_weight * distance * scale, terms


class CofiTeacher(TaskTeacher):
    """A task teacher that also shows its layers."""

    def __init__(
        self, model: PreTrainedModel, kind: Kind, order: Sequence[int] | None, structure: Structure, how: Any, seed: int
    ):
        """
        Args:
            model, kind, order: as of `TaskTeacher`.
            structure: knows the step.
            how: to choose layers, see `ofa.downstream.cofi.matching.chosen_layers`.
            seed: of that choice.
        """
        super().__init__(model, kind, order)
        self._structure, self._how, self._seed = structure, how, seed
        self._recorder = LayerRecorder(model)

    def targets(self, batch: TaskBatch) -> CofiTargets:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Its logits and hidden states for a micro-batch."""
        logits = super().targets(batch)
        states = self._recorder.take()
        chosen = chosen_layers(len(states), self._how, self._seed, self._structure.step)
        return CofiTargets(logits, torch.stack([states[layer] for layer in chosen]))
