"""What a CoFi run trains on, and all that depends on it: a task's rows, or the masked words of a corpus.

In: a config of one kind or the other. Out: how its parts are opened, how long its stages are, which module and which
teacher it has, and which runs its stages are. The rest of CoFi asks a `Subject` and does not look which one it is.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from ofa import assemble as pretraining
from ofa.assemble import CorpusParts
from ofa.config import AnyCofiConfig, CofiConfig, CofiMlmConfig
from ofa.downstream import assemble as finetuning
from ofa.downstream.assemble import TaskParts
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.runs import CofiRun, CompactMlmRun, CompactTaskRun, GatedMlmRun, GatedTaskRun
from ofa.downstream.cofi.stages import Stages
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.training import CofiMaskedLanguageModeling, CofiTaskTraining, CofiTraining
from ofa.export.recipe_file import Parent
from ofa.models.compile import compile_if_asked
from ofa.run import Teaches
from ofa.run_folder import RunFolder


class Subject(Protocol):
    """One or the other; `Any` stands for its own kind of config and parts."""

    gated: type[Any]
    """Run of stages one and two."""
    compact: type[Any]
    """Run of stage three."""

    def open_parts(self, config: Any, folder: RunFolder) -> Any:
        """Data, model, and what is locked of it (a collective call)."""
        ...

    def stages(self, config: Any, parts: Any) -> Stages:
        """How long they are."""
        ...

    def ramp(self, config: Any, parts: Any, steps: int) -> tuple[str, float, int]:
        """Key of the ramp's length, a round value for at least so many steps, and the steps that it comes to."""
        ...

    def module(self, config: Any, parts: Any, structure: Structure, layers: LayerDistillation | None) -> CofiTraining:
        """What the engine trains."""
        ...

    def teacher(self, config: Any, parts: Any, folder: RunFolder, steps: int, *, live: bool) -> tuple[Any, Parent]:
        """What the student of so many steps learns from, and whose weights it is (a collective call).

        Args:
            live: it is asked in every step, and never its kept answers.
        """
        ...

    def build(self, kind: type[Any], config: Any, folder: RunFolder, *start_and_parts: Any, **more: Any) -> CofiRun:
        """`ofa.parts.build_run` with what the data say (a collective call)."""
        ...


class TaskSubject:
    """A task model."""

    gated, compact = GatedTaskRun, CompactTaskRun
    open_parts = staticmethod(finetuning.open_parts)
    build = staticmethod(finetuning.build_task_run)

    def stages(self, config: CofiConfig, parts: TaskParts) -> Stages:
        """As many steps as the epochs come to."""
        return Stages.of(config, parts.loader.total_steps)

    def ramp(self, config: CofiConfig, parts: TaskParts, steps: int) -> tuple[str, float, int]:
        """In epochs."""
        epochs = rounded_up(steps * config.batch.global_size / len(parts.data.train.rows))
        return "ramp_epochs", epochs, parts.loader.total_steps(epochs)

    def module(
        self, config: CofiConfig, parts: TaskParts, structure: Structure, layers: LayerDistillation | None
    ) -> CofiTaskTraining:
        """What the engine trains."""
        losses = parts.model, parts.data.task.kind, config.objective
        return CofiTaskTraining(*losses, config=config, structure=structure, layers=layers)

    def teacher(
        self, config: CofiConfig, parts: TaskParts, folder: RunFolder, steps: int, *, live: bool
    ) -> tuple[Teaches, Parent]:
        """A task teacher, or its kept answers."""
        if live:
            return finetuning.live_teacher(config, parts.data)
        return finetuning.teacher_of(config, parts.data, steps, folder)


class MlmSubject:
    """A masked-LM model."""

    gated, compact = GatedMlmRun, CompactMlmRun
    build = staticmethod(pretraining.build_corpus_run)

    def open_parts(self, config: CofiMlmConfig, folder: RunFolder) -> CorpusParts:
        """Data, model, and what is locked of it (a collective call)."""
        return pretraining.open_parts(config, folder, lock=config.lock)

    def stages(self, config: CofiMlmConfig, parts: CorpusParts) -> Stages:
        """As the config says."""
        return Stages.of_steps(config)

    def ramp(self, config: CofiMlmConfig, parts: CorpusParts, steps: int) -> tuple[str, float, int]:
        """As it is."""
        return "ramp_steps", steps, steps

    def module(
        self, config: CofiMlmConfig, parts: CorpusParts, structure: Structure, layers: LayerDistillation | None
    ) -> CofiMaskedLanguageModeling:
        """What the engine trains."""
        losses = parts.model, config.objective
        return CofiMaskedLanguageModeling(*losses, config=config, structure=structure, layers=layers)

    def teacher(
        self, config: CofiMlmConfig, parts: CorpusParts, folder: RunFolder, steps: int, *, live: bool
    ) -> tuple[Teaches, Parent]:
        """A masked-LM teacher, which is always asked."""
        teacher, its_parent = pretraining.teacher_of(config, parts)
        compile_if_asked(config.engine, [teacher.model])
        return teacher, its_parent


def rounded_up(value: float) -> float:
    """To two digits that are not 0."""
    digits = 1 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits


def subject_of(config: AnyCofiConfig) -> Subject:
    """The subject of a config."""
    return MlmSubject() if isinstance(config, CofiMlmConfig) else TaskSubject()
