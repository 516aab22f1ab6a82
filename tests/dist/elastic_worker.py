"""One rank of test_elastic: trains and saves on some ranks, or continues what others saved, and reports what differs.

elastic_worker.py train "STAGE PRECISION MODE" ...
elastic_worker.py continue "STAGE PRECISION MODE -> STAGE" ...
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch

from ofa import dist
from ofa.checkpoint import Checkpoints, Start, load
from ofa.config import CheckpointConfig
from ofa.engine.copies import MOMENTS
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.pruning.lock import PatternLock, locked_masks
from ofa.pruning.magnitude import MagnitudePruner
from ofa.recipe import Recipe
from tests.dist.mask_worker import Case, Net, share_of_loss
from tests.processes import end_rank

SAVED, LAST = 8, 12
"""Steps; masks are chosen at 0, 5 and 10."""


class Training:
    """A net under the engine, and updates on global batches that do not depend on the number of ranks."""

    def __init__(self, case: Case, universal: bool = False, accepts=None, seed: int = 0):
        self.config = case.config()
        self.dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        torch.manual_seed(seed)
        self.net = Net()
        scoped = {name: p for name, p in self.net.named_parameters() if p.dim() > 1}
        keep = locked_masks(with_zeros(scoped), None) if case.mode == "lock" else {}  # before weights are divided
        self.engine = Engine(self.config, self.net, scoped, universal=universal, accepts=accepts)
        self.recipe = Recipe(self.config)
        if keep:
            self.pruner = PatternLock(keep, scoped, self.engine.weights)
        else:
            self.pruner = MagnitudePruner(self.config.pruning, scoped, self.engine.weights)

    def run(self, first: int, last: int):
        """Updates first ... last - 1."""
        for step in range(first, last):
            rows = torch.randn(8, 66, generator=torch.Generator().manual_seed(step)).to(self.dtype)
            self.pruner.before_step(self.recipe.at(step))
            self.engine.set_lr(self.recipe.at(step).lr)
            for number in range(self.engine.accumulation):
                place = 2 * (number * dist.world_size() + dist.rank())
                self.engine.backward(share_of_loss(self.engine, rows[place : place + 2]))
                self.engine.advance()
            self.pruner.after_step(self.recipe.at(step + 1))

    def state(self) -> dict[str, torch.Tensor]:
        """Masters, moments and masks, whole, by name (a collective call)."""
        found = {f"keep {name}": keep.clone() for name, keep in self.pruner.keep.items()}
        for name, parameter in self.net.named_parameters():
            held = self.engine.weights._copies.held(parameter)  # links the moments of every group
            found[f"master {name}"] = self.engine.weights.gather(parameter).clone()
            for number, key in enumerate(MOMENTS):
                if self.config.engine.zero_stage == 0:
                    whole = held.moments[number].view(parameter.shape)
                else:
                    whole = deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
                found[f"{key} {name}"] = whole.clone()
        return found

    def settings(self) -> dict:
        """Hyperparameters of each group, and the optimizer's step counts."""
        inner = getattr(self.engine._deepspeed.optimizer, "optimizer", self.engine._deepspeed.optimizer)
        groups = [[group[key] for key in ("weight_decay", "betas", "eps")] for group in inner.param_groups]
        return {"groups": groups, "steps": [float(state["step"]) for state in self.engine._optimizer_states()]}

    def live_is_masked(self) -> bool:
        """Whether a forward sees the masters, masked and rounded."""
        expected = {name: self.engine.weights.full_master(name) * keep for name, keep in self.pruner.keep.items()}
        seen = {}

        def look(name):
            return lambda module, inputs: seen.__setitem__(name, module.weight.detach().clone())

        handles = [self.net[int(name[0])].register_forward_pre_hook(look(name)) for name in expected]
        self.engine(torch.zeros(2, 66, dtype=self.dtype))
        for handle in handles:
            handle.remove()
        return all(torch.equal(seen[name], value.to(self.dtype)) for name, value in expected.items())


def with_zeros(weights: dict[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    """The same, with 90 % zeros of either sign at places that do not depend on the weights."""
    generator = torch.Generator().manual_seed(90)
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(torch.rand(weight.shape, generator=generator) > 0.9)
    return weights


def folder(case: str) -> Path:
    """Where a case is saved."""
    return Path(case.replace(" ", "-"))


def parse(case: str) -> Case:
    """`1 fp32 retain`"""
    stage, precision, mode = case.split()
    return Case(int(stage), precision, mode, persist=True)


def train(case: str) -> None:
    """Up to the checkpoint, and then on, with both states on disk for those who continue."""
    training = Training(parse(case))
    training.run(0, SAVED)
    Checkpoints(folder(case), CheckpointConfig()).save(
        training.engine, SAVED, {"step": SAVED, "pruner": training.pruner.state_dict()}
    )
    then = {"saved": training.state(), "settings": training.settings()}
    training.run(SAVED, LAST)
    then["last"], then["last settings"] = training.state(), training.settings()
    if dist.rank() == 0:
        torch.save(then, folder(case) / "state.pt")


def go_on(pair: str) -> dict:
    """Load what a case has saved into this number of ranks at another stage, compare, and train on."""
    source, stage = pair.split(" -> ")
    case = parse(source)._replace(stage=int(stage))
    found = Checkpoints(folder(source), CheckpointConfig())
    layout = {"world_size": dist.world_size(), "zero_stage": case.stage}
    begin: Start = dist.on_rank_zero(lambda: found.for_layout(found.at(SAVED), layout))
    training = Training(case, universal=begin.universal, seed=1)  # what is not loaded shows
    step, client = load(training.engine, begin)
    training.pruner.load_state_dict(client["pruner"], training.recipe.at(step))
    then = torch.load(folder(source) / "state.pt", weights_only=False)
    now = training.state()
    report = {
        "universal": begin.universal,
        "differs": [name for name, value in then["saved"].items() if not torch.equal(now[name], value)],
        "settings": training.settings() == then["settings"],
        "live_is_masked": training.live_is_masked(),
    }
    training.run(step, LAST)
    last = training.state()
    report["last_settings"] = training.settings() == then["last settings"]
    report["behind"] = sum(
        int(torch.count_nonzero(last[f"{kind} {name}"][~keep]))
        for name, keep in training.pruner.keep.items()
        for kind in ("master", *MOMENTS)
        if case.mode != "retain"
    )
    masks = [(name, value) for name, value in then["last"].items() if name.startswith("keep")]
    report["zeros"] = all(int(last[name].sum()) == int(value.sum()) for name, value in masks)
    report["places"] = min(float((last[name] == value).float().mean()) for name, value in masks)
    report["masters"] = max(
        float((last[name] - value).abs().max() / value.abs().max())
        for name, value in then["last"].items()
        if name.startswith("master")
    )
    return report


if __name__ == "__main__":
    ACTION, *CASES = sys.argv[1:]
    start(parse(CASES[0].split(" -> ")[0]).config())
    if ACTION == "train":
        for one in CASES:
            train(one)
    else:
        reports = {pair: go_on(pair) for pair in CASES}
        Path(f"continued-on-{dist.world_size()}-rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
