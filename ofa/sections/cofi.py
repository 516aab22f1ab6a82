"""One CoFi run on a task: a task model that is pruned structurally on the way and comes out small and dense.

What a run on a corpus shares with it, `ofa.sections.cofi_mlm`, stands in sections of its own: all but how long the
stages are, which a task counts in epochs and a corpus in steps.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section
from ofa.sections.finetune import FinetuneConfig, TaskObjectiveConfig, TaskScheduleConfig
from ofa.sections.training import TrainingConfig, with_loss_weights


class UnitsConfig(Section):
    """Which units go, and how many."""

    sparsity: float = Field(gt=0.0, lt=1.0)
    """Share of the cost that is pruned away."""

    cost: Literal["params", "nnz", "macs", "latency"] = "params"
    """What is counted: weights of the encoder's Linears; those of them that are not zero (with lock); multiply-adds of
    a row; or its measured time on this machine."""

    length: int = Field(default=128, gt=0)
    """Tokens of the row that `macs` and `latency` are of."""

    rows: int = Field(default=1, gt=0)
    """At once, when `latency` is measured."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """In which `latency` is measured: that in which the small model will be used, whatever it is trained in."""

    method: Literal["gates", "magnitude"] = "gates"
    """Learned hard-concrete gates (CoFi), or the baseline: units of the smallest weights go."""

    heads: bool = True
    """Prune attention heads."""

    intermediate: bool = True
    """Prune dimensions inside feed-forward networks."""

    layers: bool = True
    """Prune whole attention and feed-forward sublayers."""

    hidden: bool = False
    """Prune hidden dimensions, the same ones everywhere: worth up to 2 points at 95 %, and costs speed and the formats
    that stock classes load."""

    dead_sublayer: Literal["skip", "keep_norm"] = "skip"
    """What is left of a pruned sublayer of a post-norm model: nothing (CoFi), or its LayerNorm, which stock classes can
    hold."""

    multiple: int = Field(default=8, gt=0)
    """Intermediate dimensions of a layer are rounded to a multiple of this, which matrix units like."""

    lr: float = Field(default=0.01, gt=0.0)
    """Learning rate of the gates and of the two Lagrange multipliers (published script; its default is 0.1). Short runs
    need a higher one: a gate goes from open to closed within about 6 / lr updates."""

    multiplier_bound: float | None = Field(default=None, gt=0.0)
    """Largest value of the second multiplier, which never falls by itself; null: none."""

    @model_validator(mode="after")
    def _something_goes(self) -> UnitsConfig:
        if not (self.heads or self.intermediate or self.layers or self.hidden):
            raise ValueError("heads, intermediate, layers and hidden are all false: nothing would be pruned")
        if self.method == "magnitude" and not (self.heads or self.intermediate):
            raise ValueError("structure: by magnitude heads or intermediate dimensions go, and both are false")
        if self.method == "magnitude" and self.hidden:
            raise ValueError("structure.hidden: weights alone do not rank hidden dimensions: set method to gates")
        return self


class StructureConfig(UnitsConfig):
    """Which units go, how many, and when.

    The run has three stages: the dense model is fine-tuned (`begin_epochs`), then pruned up to the end of `schedule`
    while the target rises from 0 within `ramp_epochs`, and then trained on in its small form (`finetune`).
    """

    begin_epochs: float = Field(default=1.0, ge=0.0)
    """Epochs before anything is pruned."""

    ramp_epochs: float = Field(default=2.0, ge=0.0)
    """Epochs in which the target rises to `sparsity`."""


class LayersTaughtConfig(Section):
    """What is added to a loss: layer_weight * sum over matched layers of the mean squared distance of hidden states."""

    layer_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the layer distillation; null: 0.9 with a teacher, and then kd_weight is 0.1 (published)."""

    matching: Literal["fixed", "free", "monotone"] = "monotone"
    """Which student layer learns from a teacher layer: always the same one; the nearest that lives; or the nearest
    ones in rising order."""

    teacher_layers: Literal["even", "random"] = "even"
    """Four layers, evenly spread (every third of twelve), or others in every step, one from each quarter."""


class CofiObjectiveConfig(LayersTaughtConfig, TaskObjectiveConfig):
    """As of fine-tuning, and layer_weight * sum over matched layers of the mean squared distance of hidden states."""


class CofiScheduleConfig(TaskScheduleConfig):
    """The stages before the structure is final: how long, and the learning rate, which falls to 0 at their end. It is
    at its peak again where pruning begins, and the optimizer starts anew there."""

    warmup_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the steps before pruning begins (`structure.begin_epochs`) that the linear warm-up takes, rounded up.
    The last stage has its own, `finetune.warmup_share`."""


class SmallModelConfig(Section):
    """The last stage: the small model is trained on, its structure as it is."""

    lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate; null: optimizer.lr."""

    warmup_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of its steps that the linear warm-up takes, rounded up."""

    decay: Literal["linear", "constant"] = "constant"
    """Linear decay to 0 at the last step, or the peak throughout (published)."""


class CompactScheduleConfig(SmallModelConfig):
    """The last stage: the small model is trained on, its structure as it is."""

    epochs: float = Field(default=20.0, ge=0.0)
    """Passes over the training rows, rounded up to whole steps; 0: the pruned model is exported as it is."""


EPOCHS = 20.0
"""Of the dense model and under gates, by default (published for large tasks; 100 for small ones)."""

LAYER_WEIGHT, KD_WEIGHT = 0.9, 0.1
"""Published weights of the two distillation losses: the first of the grid .9/.1, .7/.3, .5/.5."""


class CofiConfig(FinetuneConfig):
    """One CoFi run on a task."""

    lock: bool = False
    """Keep every zero of `model.init` besides: structured pruning of a sparse base."""

    objective: CofiObjectiveConfig = CofiObjectiveConfig()
    schedule: CofiScheduleConfig = CofiScheduleConfig()
    structure: StructureConfig
    finetune: CompactScheduleConfig = CompactScheduleConfig()

    PLACES: ClassVar[dict[str, Any]] = FinetuneConfig.PLACES

    @model_validator(mode="before")
    @classmethod
    def _weights_follow_the_teacher(cls, values: Any) -> Any:
        return _with_published_length(with_published_weights(values))

    @model_validator(mode="after")
    def _structure_fits(self) -> CofiConfig:
        check_structure(self, self.objective, self.structure, taught=self.teacher is not None, lock=self.lock)
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> CofiConfig:
        if self.schedule.epochs is not None:
            before = self.structure.begin_epochs + self.structure.ramp_epochs
            check_target_is_held(before, self.schedule.epochs, "epochs", ("epochs", "schedule.epochs"))
        return self

    def warmup_steps(self, begin: int) -> int:
        """Steps of linear warm-up, where pruning begins at step `begin`."""
        return math.ceil(self.schedule.warmup_share * begin)


def with_published_weights(values: Any) -> Any:
    """A raw config whose objective's null weights are filled with the published ones."""
    values = with_loss_weights(values, taught=(0.0, KD_WEIGHT))
    if isinstance(values, dict) and isinstance(values.get("objective"), dict):
        objective = dict(values["objective"])
        if objective.get("layer_weight") is None:
            objective["layer_weight"] = LAYER_WEIGHT if values.get("teacher") is not None else 0.0
        values = {**values, "objective": objective}
    return values


def check_structure(
    config: TrainingConfig, objective: LayersTaughtConfig, structure: UnitsConfig, *, taught: bool, lock: bool
) -> None:
    """What must hold between the sections of a CoFi run, whatever it trains on.

    Raises:
        ValueError: it does not.
    """
    if objective.layer_weight and not taught:
        raise ValueError("objective.layer_weight is above 0 but there is no teacher section")
    if config.pruning is not None:
        raise ValueError("pruning makes zeros and structure takes units away: one run does one of them")
    if structure.cost == "nnz" and not lock:
        raise ValueError("structure.cost nnz counts the weights that a lock leaves: set lock to true")


def check_target_is_held(before: float, pruned: float, unit: str, keys: tuple[str, str]) -> None:
    """Refuse stages in which the structure becomes final before its target is reached.

    Args:
        before: length of the stages up to the full target.
        pruned: of these and of the time for which it is held.
        unit: `steps` or `epochs`, what both are counted in.
        keys: end of the keys of the stages, and the key of the sum.

    Raises:
        ValueError: with both lengths, and the keys.
    """
    if before >= pruned:
        raise ValueError(
            f"structure.begin_{keys[0]} and ramp_{keys[0]} come to {before:g} {unit}, and schedule gives all of "
            f"pruning {pruned:g}: the target would not be held for a single step; lower them or raise {keys[1]}"
        )


def _with_published_length(values: Any) -> Any:
    """A raw config whose schedule says how long; the default of fine-tuning would end before pruning does."""
    if not isinstance(values, dict) or not isinstance(values.get("schedule", {}), dict):
        return values
    schedule = values.get("schedule", {})
    if schedule.get("epochs") is None and schedule.get("total_steps") is None:
        return {**values, "schedule": {**schedule, "epochs": EPOCHS}}
    return values
