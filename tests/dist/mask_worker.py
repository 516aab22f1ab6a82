"""One rank of test_masks_under_zero: trains a small net with pruning and reports what its copies hold, as JSON.

Run with one argument per case: "STAGE PRECISION hard|retain [persist]".
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.pruning.magnitude import MagnitudePruner
from ofa.recipe import Recipe
from tests.processes import end_rank


class Case(NamedTuple):
    """What one group of ranks runs."""

    stage: int
    precision: str
    mode: str
    persist: bool
    """Under ZeRO 3: whether DeepSpeed keeps these small weights whole."""

    def config(self) -> RunConfig:
        """A gradual recipe of 40 steps with accumulation, clipping and weight decay."""
        pruning = {"sparsity": 0.9, "ramp_end": 20, "end": 30, "frequency": 5, "regrow": self.mode == "retain"}
        divided = {} if self.persist else {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
        return parse(
            RunConfig,
            {
                "model": {"architecture": {"model_type": "bert"}},
                "data": {"path": "none", "sequence_length": 8},
                "batch": {"global_size": 8, "micro_size": 2},
                "optimizer": {"lr": 1e-2, "weight_decay": 0.01, "max_grad_norm": 1.0},
                "schedule": {"total_steps": 40, "decay": "constant"},
                "pruning": pruning,
                "engine": {
                    "zero_stage": self.stage,
                    "precision": self.precision,
                    "threads": 1,
                    "deepspeed": divided if self.stage == 3 else {},
                },
            },
            origin="test",
        )


class Net(nn.Sequential):
    """Gives the loss itself, as the product's module does: DeepSpeed scales its module's own output in another way
    than a loss that was made from it."""

    def __init__(self):
        super().__init__(nn.Linear(66, 129), nn.GELU(), nn.Linear(129, 66))

    def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Of reproducing a sine, times `scale`."""
        return ((super().forward(inputs) - inputs.sin()) ** 2).mean() * scale


class Watch:
    """Counts, inside every forward, what lives outside the masks and zeros that carry a sign."""

    def __init__(self, modules: dict[str, nn.Module]):
        self.keep, self.alive, self.negative_zeros, self.counts_signs = {}, 0, 0, False
        for name, module in modules.items():
            module.register_forward_pre_hook(self._hook(name))

    def _hook(self, name):
        def look(module, inputs):
            weight = module.weight.detach()
            if name in self.keep:
                self.alive += int(torch.count_nonzero(weight[~self.keep[name]]))
            if self.counts_signs:
                self.negative_zeros += int(torch.signbit(weight[weight == 0]).sum())

        return look


def share_of_loss(wrapped: Engine, inputs: torch.Tensor) -> torch.Tensor:
    """What one micro-batch adds to the mean over the global batch."""
    return wrapped(inputs, wrapped.loss_scale / (wrapped.accumulation * dist.world_size()))


def one_more_update(wrapped: Engine, net: Net, keep: dict, dtype: torch.dtype) -> dict[str, float]:
    """Gradient norm of the engine's update, and of the same global batch in plain torch with and without the masks."""
    plain = Net()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(wrapped.weights.gather(net.get_parameter(name)))
    batches = [
        [
            torch.randn(2, 66, generator=torch.Generator().manual_seed(100 + 10 * rank + number))
            for number in range(wrapped.accumulation)
        ]
        for rank in range(dist.world_size())
    ]
    for inputs in batches[dist.rank()]:
        wrapped.backward(share_of_loss(wrapped, inputs.to(dtype)))
        wrapped.advance()
    every = torch.cat([inputs for of_rank in batches for inputs in of_rank])
    plain(every).backward()
    dense = [p.grad for p in plain.parameters()]
    masked = [p.grad * keep[name] if name in keep else p.grad for name, p in plain.named_parameters()]
    norm = torch.nn.utils.get_total_norm
    return {"engine": wrapped.grad_norm(), "masked": float(norm(masked)), "dense": float(norm(dense))}


def train(case: Case) -> dict:
    """Train and count what is not zero where the masks drop."""
    config = case.config()
    torch.manual_seed(0)
    net = Net()
    exact = {name: p.detach().clone() for name, p in net.named_parameters()}
    scoped = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    wrapped = Engine(config, net, scoped)
    watch = Watch({"0.weight": net[0], "2.weight": net[2]})  # after DeepSpeed's hook, which gathers under ZeRO 3
    weights = wrapped.weights
    masters = {name: weights.gather(parameter).cpu() for name, parameter in net.named_parameters()}
    first_masters_are_exact = all(torch.equal(masters[name], value) for name, value in exact.items())
    pruner, recipe = MagnitudePruner(config.pruning, scoped, weights), Recipe(config)
    watch.keep = pruner.keep
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    generator, revived = torch.Generator().manual_seed(dist.rank()), 0
    for step in range(recipe.total_steps):
        churn = pruner.before_step(recipe.at(step))
        revived += churn.revived if churn else 0
        wrapped.set_lr(recipe.at(step).lr)
        for _ in range(wrapped.accumulation):
            inputs = torch.randn(2, 66, generator=generator).to(dtype)
            wrapped.backward(share_of_loss(wrapped, inputs))
            wrapped.advance()
        pruner.after_step(recipe.at(step + 1))
    norms = one_more_update(wrapped, net, pruner.keep, dtype)
    watch.counts_signs = True  # until the last refresh, masked live weights may be -0.0
    wrapped(torch.zeros(2, 66, dtype=dtype))
    behind = {name: [copy[~keep] for copy in weights.full_copies(name)] for name, keep in pruner.keep.items()}
    return {
        "grad_norms": norms,
        "first_masters_are_exact": first_masters_are_exact,
        "alive_in_a_forward": watch.alive,
        "negative_zeros": watch.negative_zeros
        + sum(int(torch.signbit(master).sum()) for master, *_ in behind.values()),
        "behind_the_zeros": {name: [int(torch.count_nonzero(c)) for c in copies] for name, copies in behind.items()},
        "zeros": {name: int((~keep).sum()) for name, keep in pruner.keep.items()},
        "revived": revived,
        "mask_hash": pruner.state_dict()["mask_hash"],
        "moved": all(not torch.equal(weights.full_master(n).cpu(), exact[n]) for n in scoped),
    }


if __name__ == "__main__":
    CASES = [
        Case(int(stage), precision, mode, rest == ["persist"])
        for stage, precision, mode, *rest in map(str.split, sys.argv[1:])
    ]
    start(CASES[0].config())
    reports = [train(case) for case in CASES]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
