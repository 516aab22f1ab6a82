"""A recipe read before it is paid for: its schedule, and what it costs. Needs no model, no data and no torch."""

from __future__ import annotations

import json

from ofa.config import RunConfig
from ofa.recipe import Recipe


def print_schedule(config: RunConfig, *, every: int = 1) -> None:
    """Print one JSON line for each `every`th step t = 0 ... T: step, lr, sparsity, refresh; also `rewind_to` where the
    weights go back to those of an earlier step."""
    recipe = Recipe(config)
    for step in range(0, recipe.total_steps + 1, every):
        knobs = recipe.at(step)
        line = {"step": step, "lr": knobs.lr, "sparsity": knobs.sparsity, "refresh": knobs.update_mask}
        if knobs.rewind_to is not None:
            line["rewind_to"] = knobs.rewind_to
        print(json.dumps(line))
