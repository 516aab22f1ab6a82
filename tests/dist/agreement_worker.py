"""One rank of test_agreement: chooses masks again and again from the same masters, once in an engine that was loaded
from a checkpoint in between, and reports their hashes beside those of sorted masters, as JSON.

Run with one argument per case: "STAGE PRECISION hard|retain".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.checkpoint import Checkpoints
from ofa.config import CheckpointConfig
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.mask_set import MaskSet
from ofa.recipe import Recipe
from tests.dist.mask_worker import Case, Net
from tests.processes import end_rank
from tests.selection import keep_largest

SAVED = 10
"""The step, one on the grid of refreshes, at which the engine is saved and another takes over."""


def tied_net(seed: int) -> Net:
    """A net with few different magnitudes in its first weight, so that ties have to be broken."""
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        net[0].weight.copy_((net[0].weight * 256).round() / 256)
    return net


def assembled(case: Case, seed: int) -> tuple[Engine, MagnitudePruner, dict]:
    """Engine, pruner, and a copy of what they were made from."""
    net = tied_net(seed)
    given = {name: p.detach().clone() for name, p in net.named_parameters() if p.dim() > 1}
    scoped = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    engine = Engine(case.config(), net, scoped)
    return engine, MagnitudePruner(case.config().pruning, scoped, engine.weights), given


def choose(case: Case, folder: Path) -> dict:
    """Hashes of every refresh by its step: as the ranks chose them, as a continued run does, and by sorting."""
    recipe, checkpoints = Recipe(case.config()), Checkpoints(folder, CheckpointConfig())
    grid = [step for step in range(recipe.total_steps) if recipe.at(step).update_mask]
    engine, pruner, given = assembled(case, seed=0)
    found, sorted_ = {}, {}
    for step in grid:
        if step == SAVED:
            checkpoints.save(engine, step, {"pruner": pruner.state_dict()})
        pruner.before_step(recipe.at(step))
        found[step] = pruner.state_dict()["mask_hash"]
        masks = MaskSet({name: weight.shape for name, weight in given.items()})
        masks.replace({name: keep_largest(w.abs(), recipe.at(step).sparsity) for name, w in given.items()})
        sorted_[step] = masks.hash()
    other, pruner, _ = assembled(case, seed=1)
    state = other.load(folder, checkpoints.at(SAVED).name)
    pruner.load_state_dict(state["pruner"], recipe.at(SAVED))
    continued = {}
    for later in grid[grid.index(SAVED) :]:
        pruner.before_step(recipe.at(later))
        continued[later] = pruner.state_dict()["mask_hash"]
    return {"found": found, "continued": continued, "sorted": sorted_}


if __name__ == "__main__":
    CASES = [Case(int(stage), precision, mode, False) for stage, precision, mode in map(str.split, sys.argv[1:])]
    start(CASES[0].config())
    reports = [choose(case, Path(f"checkpoints-{number}").absolute()) for number, case in enumerate(CASES)]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
