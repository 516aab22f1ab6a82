"""Our step under DeepSpeed, as the training loop makes it, for the step benchmark.

In: a run's config, the models and masks of the other steps. Out: a step on packed batches through `ofa.engine`, with a
student of its own, because DeepSpeed takes a module over. The training loop itself is measured by `loader.py`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from benchmarks.step_batches import StepBatch
from benchmarks.step_variants import LEARNING_RATE, Models, Step, Variant, copied
from ofa.config import RunConfig
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.models.adapters import scope
from ofa.models.compile import compile_layers
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.pruning.mask_set import MaskSet


class EngineStep:
    """One step with every improvement on, under DeepSpeed ZeRO 1."""

    def __init__(self, config: RunConfig, models: Models):
        start(config)
        everything = Step(Variant().with_all(models.precision), models)
        model = copied(everything.student.model).float()
        assert everything.teacher is not None
        self._teacher = Teacher(everything.teacher, everything.objective)
        module = MaskedLanguageModeling(model, everything.objective)
        compile_layers([model, everything.teacher], device=models.device)
        self._engine = Engine(config, module, scope(model))
        self._masks = MaskSet({name: keep.shape for name, keep in models.keep.items()}, models.device)
        for name, keep in models.keep.items():
            self._masks.keep[name].copy_(keep)
        self._masks.mask_gradients(scope(model))

    def __call__(self, batch: StepBatch) -> Tensor:
        """Forward, backward, update and masks."""
        micro = replace(batch.micro, distilled=None)
        self._engine.set_lr(LEARNING_RATE)
        loss, _ = self._engine(micro, batch.totals, self._teacher.targets(micro), self._engine.loss_scale)
        self._engine.backward(loss)
        self._engine.advance()
        self._engine.weights.mask_live(self._masks.keep)
        return loss.detach()
