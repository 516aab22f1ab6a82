"""The two runs that a CoFi run is, one after the other in one folder: under masks, and of the small model.

`GatedRun` and `CompactRun` are all that is CoFi's in them. What a run is scored by is that of the class that stands
behind them among the bases: a task's rows, or masked words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ofa.assemble import PretrainingRun
from ofa.config import AnyCofiConfig, CofiConfig
from ofa.downstream.assemble import FinetuningRun
from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.describe import in_numbers
from ofa.downstream.cofi.pruner import StructurePruner
from ofa.downstream.cofi.stages import Stages
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.training import CofiMaskedLanguageModeling, CofiTaskTraining, CofiTraining
from ofa.models.structure import StructureMasks
from ofa.parts import Parts
from ofa.run import Run
from ofa.run_folder import RunFolder


@dataclass(frozen=True)
class Frame:
    """What both have from the beginning."""

    config: AnyCofiConfig
    folder: RunFolder
    name: str
    """What people call the run."""
    stages: Stages
    costs: Costs
    """That the structure is cut by."""
    weight_costs: Costs
    """Weights of the layers' Linears, whatever it is cut by."""


@dataclass
class CofiRun(Run):
    """What both have."""

    frame: Frame = field(kw_only=True)
    structure: Structure = field(kw_only=True)
    module: CofiTraining

    @property
    def asked(self) -> AnyCofiConfig:
        """The config as what it is."""
        return self.frame.config

    @property
    def stages(self) -> Stages:
        """Of both runs."""
        return self.frame.stages

    @property
    def steps_of_all_stages(self) -> int:
        """Both runs."""
        return self.stages.total

    def sparsities_of(self, masks: StructureMasks) -> dict[str, float]:
        """What a hard structure has lost: `structural_sparsity`, the share of the dense encoder's weights, and
        `cost_sparsity`, that of the cost which the target is a share of; the zeros of a sparse base count in the second
        alone, where it counts non-zeros."""
        both = {"structural_sparsity": self.frame.weight_costs, "cost_sparsity": self.frame.costs}
        return {name: float(costs.sparsity(costs.of(masks))) for name, costs in both.items()}

    def structure_numbers(self, masks: StructureMasks) -> dict[str, float]:
        """Of a hard structure, for a metrics line."""
        return self.sparsities_of(masks) | in_numbers(masks)


@dataclass
class GatedRun(CofiRun):
    """Stages one and two: the dense model, then under masks, up to a final structure."""

    made_of: Parts = field(kw_only=True)
    """Out of which the small model is cut."""
    pruner: StructurePruner

    def scores(self) -> dict[str, float]:
        """Of the model under the hard structure that the target of this step asks for, as it would be cut out."""
        return self.scores_under(self.hard_masks())

    def scores_under(self, masks: StructureMasks) -> dict[str, float]:
        """Of the model under a hard structure (a collective call)."""
        with self.structure.fixed(masks):
            found = super().scores()
        return found | self.structure_numbers(masks)

    def hard_masks(self) -> StructureMasks:
        """The structure of today's target (a collective call); everything before pruning begins."""
        return self.pruner.hard(self.recipe.at(self.structure.step).sparsity)

    def more_for_the_line(self) -> dict[str, float]:
        """Expected sparsity and multipliers."""
        return self.pruner.for_the_line() if self.structure.active else {}

    def validates_at(self, step: int) -> bool:
        """Not at the end, where the small model is scored."""
        return step < self.stages.pruned and super().validates_at(step)


@dataclass
class CompactRun(CofiRun):
    """Stage three: the small model, trained on."""

    masks: StructureMasks = field(kw_only=True)
    """The final structure, in the sizes of the dense model."""
    encoder_weights: int = field(kw_only=True)
    """Of the small encoder's Linears."""

    @property
    def made(self) -> str:
        """What the final table calls the model."""
        return "compact model"

    def scores(self) -> dict[str, float]:
        """Of the small model."""
        return super().scores() | self.structure_numbers(self.masks)

    def more_for_the_line(self) -> dict[str, Any]:
        """What of the encoder is gone."""
        return self.sparsities_of(self.masks)

    def more_for_the_recipe(self) -> dict[str, Any]:
        """Steps of all stages, and the structure."""
        return {"total_steps": self.stages.total, "structure": self.structure_numbers(self.masks)}

    def more_for_the_row(self) -> dict[str, Any]:
        """What of the encoder is gone, and what is left."""
        return {**self.sparsities_of(self.masks), "encoder_weights": self.encoder_weights}

    def more_for_the_result(self) -> dict[str, Any]:
        """The structure."""
        return {"structure": self.structure_numbers(self.masks), "stages": vars(self.stages)}


@dataclass
class GatedTaskRun(GatedRun, FinetuningRun):
    """Of a task model."""

    module: CofiTaskTraining

    def take_note(self, step: int, scores: dict[str, float]) -> None:
        """None is the best one: the model is not small yet."""
        Run.take_note(self, step, scores)

    def saves_at(self, step: int) -> bool:
        """None of these checkpoints is exported."""
        return Run.saves_at(self, step)


@dataclass
class CompactTaskRun(CompactRun, FinetuningRun):
    """Of a task model."""

    module: CofiTaskTraining

    def _is_eligible(self, step: int) -> bool:
        """A checkpoint of the change of models is one of the dense model."""
        return step > self.stages.pruned or self.stages.total == self.stages.pruned

    def described(self) -> CofiConfig:
        """With the steps that the epochs came to."""
        assert isinstance(self.asked, CofiConfig)
        schedule = self.asked.schedule.model_copy(update={"epochs": None, "total_steps": self.stages.pruned})
        return self.asked.model_copy(update={"schedule": schedule})


@dataclass
class GatedMlmRun(GatedRun, PretrainingRun):
    """Of a masked-LM model."""

    module: CofiMaskedLanguageModeling


@dataclass
class CompactMlmRun(CompactRun, PretrainingRun):
    """Of a masked-LM model."""

    module: CofiMaskedLanguageModeling
