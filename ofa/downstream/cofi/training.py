"""CoFi around a stock model with losses: the module that the engine trains, and its teacher.

In: micro-batches of a task (`ofa.data.task_batches`) or of prepared text (`ofa.data.batches`). Out: the losses of
`ofa.models.task_training` or `ofa.models.pretraining`, computed under the masks of the moment, and the distance of the
student's layers to the teacher's:

    ce_weight * label loss + kd_weight * distillation + layer_weight * squared distance of matched layers

(CoFi, Xia et al. 2022, section 2.3.) What is CoFi's own stands in `CofiTraining`, which knows neither tasks nor masked
words. The same module serves the small model of the last stage, which has no masks. It is a base class and no module
around another, so that weights keep their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.config import AnyCofiConfig
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.matching import TeacherLayers, chosen_layers
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.downstream.cofi.structure import Structure
from ofa.models.pretraining import MaskedLanguageModeling
from ofa.models.task_training import TaskTraining


class Asked(Protocol):
    """A frozen model that is asked for every micro-batch: `TaskTeacher` and `Teacher`."""

    model: PreTrainedModel

    def targets(self, batch: Any) -> Any:
        """What it says."""
        ...


@dataclass(frozen=True)
class CofiTargets:
    """What a teacher says about one micro-batch."""

    answers: Any
    """As of the teacher alone."""
    layers: Tensor
    """[K, B, S, d], hidden states behind its chosen layers, in order."""


class CofiTraining(nn.Module):
    """What CoFi adds to a module with losses, which stands behind it among the bases: masks, and layers that are
    taught."""

    model: PreTrainedModel

    def __init__(self, *losses: Any, config: AnyCofiConfig, structure: Structure, layers: LayerDistillation | None):
        """
        Args:
            losses: what the module behind this is made from, the model first.
            config: of the run.
            structure: says which masks; not a module, so that the engine does not find the gates.
            layers: what compares hidden states; None: they are not.
        """
        super().__init__(*losses)
        self.layers = layers
        self._structure = structure
        self._layer_weight, self._matching = config.objective.layer_weight or 0.0, config.objective.matching
        self._recorder = LayerRecorder(losses[0]) if layers is not None else None

    def forward(self, batch: Any, totals: Any = None, targets: Any = None, scale: float = 1.0) -> Any:
        """As of the module behind this, with the term `layer` where layers are taught, and how far each of the
        teacher's is matched: `match.1` and so on, the mean number of the student's layer times the micro-batch's
        share."""
        alive = self._structure.enter(training=self.training)
        answers = targets.answers if isinstance(targets, CofiTargets) else targets
        found = super().forward(batch, totals, answers, scale)
        states = self._recorder.take() if self._recorder is not None else []
        if totals is None or self.layers is None or not isinstance(targets, CofiTargets):
            return found
        loss, terms = found
        distance, matched = self.layers(states, targets.layers, batch.real, alive, self._matching)
        distance = distance / totals.tokens
        share = batch.real.sum() / totals.tokens
        terms |= {"layer": distance.detach()}
        terms |= {f"match.{place}": (layer + 1) * share for place, layer in enumerate(matched, 1)}
        return loss + self._layer_weight * distance * scale, terms


class CofiTaskTraining(CofiTraining, TaskTraining):
    """A stock task model with its losses, under masks, its layers taught."""


class CofiMaskedLanguageModeling(CofiTraining, MaskedLanguageModeling):
    """A stock masked-LM model with its losses, under masks, its layers taught."""


class CofiTeacher:
    """A teacher that also shows its layers. Not a module: see `ofa.models.pretraining.Teacher`."""

    def __init__(self, teacher: Asked, how: TeacherLayers, seed: int):
        """
        Args:
            teacher: on its device.
            how: to choose layers, see `ofa.downstream.cofi.matching.chosen_layers`.
            seed: of that choice.
        """
        self.model = teacher.model
        self.structure: Structure | None = None
        """Knows the step; to be given by each run that it teaches."""
        self._teacher, self._seed = teacher, seed
        self._how: TeacherLayers = how
        self._recorder = LayerRecorder(teacher.model)

    def targets(self, batch: Any) -> CofiTargets:
        """Its answers and hidden states for a micro-batch."""
        answers = self._teacher.targets(batch)
        states = self._recorder.take()
        assert self.structure is not None, "the run that is taught says which step it is"
        chosen = chosen_layers(len(states), self._how, self._seed, self.structure.step)
        return CofiTargets(answers, torch.stack([states[layer] for layer in chosen]))
