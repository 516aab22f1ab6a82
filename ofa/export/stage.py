"""How far a run had come when its model was exported: to its end, or to a step in the middle.

Comes in: a recipe, as `recipe.json` holds it, from any run. Goes out: steps done and total, whether the masks were
final, and the words for that on the command line, on the model card and in verify. No field of its own in the file was
needed: `steps` are those done, and `config.schedule` and `config.pruning` hold the total and the last refresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ofa.config import PruningConfig
from ofa.export.targets import recorded_pruning


@dataclass(frozen=True)
class Stage:
    """A step of a run."""

    steps: int
    """Updates that were applied."""
    total: int
    pruning: PruningConfig | None
    """None: the run does not prune."""

    @property
    def finished(self) -> bool:
        """Whether the run ended there."""
        return self.steps == self.total

    @property
    def pruning_ended(self) -> bool:
        """Whether the last refresh of the masks was before; of a run that does not prune, always."""
        return self.pruning is None or self.finished or self.steps > self.pruning.last_refresh

    @property
    def place(self) -> str:
        """`step 320 of 1,000`."""
        return f"step {self.steps:,} of {self.total:,}"

    @property
    def origin(self) -> str:
        """The place, and on which side of the end of pruning it is."""
        if self.pruning is None:
            return self.place
        return f"{self.place}, {'after' if self.pruning_ended else 'before'} pruning ended"

    @property
    def target(self) -> str:
        """What a pruned run is to reach: `90 %`."""
        assert self.pruning is not None, "a run that does not prune has no target"
        overrides = len(self.pruning.overrides)
        return percent(self.pruning.sparsity, 4) + (f" ({overrides} override(s) aside)" if overrides else "")


def recorded_stage(recipe: Mapping[str, Any]) -> Stage | None:
    """The stage of a recipe's model; None if the recipe does not say.

    Raises:
        TargetError: its pruning section is damaged.
    """
    schedule = (recipe.get("config") or {}).get("schedule")
    steps, total = recipe.get("steps"), schedule.get("total_steps") if isinstance(schedule, dict) else None
    total = recipe.get("total_steps", total)  # of a run of several stages, of which `schedule` is the first
    if not isinstance(steps, int) or not isinstance(total, int):
        return None
    return Stage(steps, total, recorded_pruning(recipe))


def stage_lines(recipe: Mapping[str, Any]) -> list[str]:
    """The step, and while pruning goes on the counted zeros against the target; nothing if the recipe does not say.

    Raises:
        TargetError: its pruning section is damaged.
    """
    stage = recorded_stage(recipe)
    if stage is None:
        return []
    if stage.pruning is None or stage.pruning_ended:
        return [stage.place]
    counted, until = percent(recipe["sparsity"]["scope_sparsity"]), stage.pruning.last_refresh
    return [stage.place, f"pruning has not ended: {counted} of {stage.target}, new masks until step {until:,}"]


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction of zeros for people: `85.8 %`; with more digits what somebody chose, which is not to be rounded."""
    return f"{round(100 * fraction, digits):g} %"
