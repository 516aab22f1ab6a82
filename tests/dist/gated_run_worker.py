"""One rank of test_gated_run: takes an assembled CoFi run through its changes by hand, and reports, as JSON, what its
gates have learned beside the same in plain torch, and what has come over from one stage to the next.

Run in a folder of `tests.tiny_tasks.write_project`, with the name of a folder for runs and one argument per case:
"STAGE MICRO PRECISION [hidden]".
"""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ofa import dist
from ofa.config import CofiConfig, load
from ofa.data.plan import micro_batch_numbers
from ofa.downstream.cofi.assemble import assemble
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.run import small_from
from ofa.downstream.cofi.structure import Structure
from ofa.downstream.cofi.subjects import subject_of
from ofa.engine.process import start
from ofa.run_folder import RunFolder
from ofa.train import applied_update, seed_dropout
from tests.processes import end_rank

FIRST_DECAY = 0.9
"""Of the gates' moments: a gradient is read off the first moments before and after its update."""


def config(case: str) -> CofiConfig:
    """Of a run; gates of all families where `hidden` is asked for."""
    stage, micro, precision, *hidden = case.split()
    asked = [f"engine.zero_stage={stage}", f"batch.micro_size={micro}", f"engine.precision={precision}"]
    return load(CofiConfig, "cofi.json", [*asked, "structure.hidden=true"] if hidden else asked)


class PlainTorch:
    """The same losses under the same masks, without engine, ranks or gate optimizer."""

    def __init__(self, run):
        asked, subject = run.asked, subject_of(run.asked)
        parts = subject.open_parts(asked, run.folder)
        self.gates = copy.deepcopy(run.structure.source)
        self.structure = Structure(MaskedForward(parts.model), run.hard_masks().alive_layers())
        self.structure.source, self.structure.active = self.gates, True
        hidden = run.frame.costs.sizes.hidden
        self.module = subject.module(asked, parts, self.structure, LayerDistillation(hidden, hidden))
        self.module.to(torch.bfloat16 if asked.engine.precision == "bf16" else torch.float32)

    def gradient(self, run, step: int, totals, micro_batches) -> Tensor:
        """Of the gates, with the run's weights, gates and multipliers of today: of the global batch of all ranks, and
        of the Lagrangian."""
        self.module.load_state_dict(run.engine.full_state_dict(run.module), strict=False)
        state = run.pruner.state_dict()["search"]
        self.gates.log_alpha.data.copy_(state["log_alpha"])
        self.gates.log_alpha.grad = None
        numbers = micro_batch_numbers(run.config.batch, dist.rank(), dist.world_size())
        for number, batch in zip(numbers, micro_batches, strict=True):
            seed_dropout(run.config.seed, step, number)
            self.module(batch, totals, run.teacher.targets(batch), 1.0)[0].backward()
        dist.ranks().sum(self.gates.log_alpha.grad)
        excess = run.frame.costs.sparsity(run.frame.costs.expected(self.gates.open_probabilities()))
        excess = excess - run.recipe.at(step).sparsity
        (state["multipliers"][0] * excess + state["multipliers"][1] * excess**2).backward()
        return self.gates.log_alpha.grad.clone()


def moments(run) -> Tensor:
    """First moments of the gates."""
    return run.pruner.state_dict()["search"]["of_gates"]["state"][0]["exp_avg"].clone()


def moving(run) -> bool:
    """Whether the engine's optimizer remembers anything of the updates before."""
    states = run.engine._optimizer_states()
    assert states and all({"step", "exp_avg", "exp_avg_sq"} <= state.keys() for state in states)
    return any(bool(value.any()) for state in states for value in state.values())


def one_step(run, step: int, batches) -> None:
    """As the training loop does it."""
    run.pruner.before_step(run.recipe.at(step))
    applied_update(run, run.recipe.at(step), batches)
    run.pruner.after_step(run.recipe.at(step + 1))


def through_the_change(run) -> dict:
    """How the stage of the small model begins."""
    layers = run.engine.full_state_dict(run.module.layers)["weight"]
    small = small_from(run)
    found = small.engine.full_state_dict(small.module.layers)["weight"]
    hidden = small.masks.hidden
    expected = layers if hidden is None else layers[:, hidden > 0]
    moved = float((layers - torch.eye(len(layers))).abs().max())
    small.journal.metrics.close()
    small.engine.close()
    return {"moved": moved, "kept": torch.equal(found, expected), "hidden": found.shape[1]}


def report(case: str, folder: Path) -> dict:
    """Through stage one, two updates under gates with a spoilt batch between them, and the change of models."""
    path = folder / case.replace(" ", "-")
    path.mkdir(exist_ok=True)
    run = assemble(config(case), RunFolder(path), None, name="run")
    begin, batches = run.stages.begin, run.loader.batches(0)
    for step in range(begin):
        one_step(run, step, batches)
    restarted = [moving(run)]
    gates = run.structure.source
    with torch.no_grad():  # about half open: of open ones next to none has a gradient
        gates.log_alpha.copy_(torch.randn(gates.log_alpha.shape, generator=torch.Generator().manual_seed(1)))
    plain, pairs, before = PlainTorch(run), [], torch.zeros_like(gates.log_alpha)
    for step in (begin, begin + 1):
        run.pruner.before_step(run.recipe.at(step))
        if step == begin:
            restarted.append(moving(run))
        totals, micro_batches = next(batches)
        expected = plain.gradient(run, step, totals, micro_batches)
        spoilt = (replace(totals, counted=0, tokens=0), micro_batches)
        tried = [(totals, micro_batches)] if step == begin else [spoilt, (totals, micro_batches)]
        applied_update(run, run.recipe.at(step), iter(tried))
        run.pruner.after_step(run.recipe.at(step + 1))
        after = moments(run)
        found = (after - FIRST_DECAY * before) / (1 - FIRST_DECAY)
        pairs.append({"found": found.tolist(), "plain": expected.tolist()})
        before = after
    skipped = run.guard.total
    return {"restarted": restarted, "gradients": pairs, "skipped": skipped, "layers": through_the_change(run)}


if __name__ == "__main__":
    runs, *cases = sys.argv[1:]
    start(config(cases[0]))
    reports = [report(case, Path(runs)) for case in cases]
    Path(runs, f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
