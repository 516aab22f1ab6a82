"""A recipe read before it is paid for: its schedule, and what it costs. Needs no model, no data and no torch."""

from __future__ import annotations

import json

from ofa.config import RunConfig
from ofa.recipe import Recipe


def print_schedule(config: RunConfig, *, every: int = 1) -> None:
    """Print one JSON line for each `every`th step t = 0 ... T: step, lr, sparsity, refresh."""
    recipe = Recipe(config)
    for step in range(0, recipe.total_steps + 1, every):
        knobs = recipe.at(step)
        line = {"step": step, "lr": knobs.lr, "sparsity": knobs.sparsity, "refresh": knobs.update_mask}
        print(json.dumps(line))
