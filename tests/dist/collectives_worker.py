"""One rank of test_collectives: counts what travels in an ordinary step and in a refresh, dense and pruned, as JSON; of
the ordinary step also what DeepSpeed's own logger has written down.

Run with one argument per case: "STAGE PRECISION".
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.engine.engine import Engine
from ofa.engine.process import deepspeed, start
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import NoPruner
from ofa.recipe import Recipe
from tests.dist.mask_worker import Case, Net, share_of_loss
from tests.processes import end_rank

ORDINARY, REFRESH = 7, 10
"""Steps of the case's recipe, whose refreshes are 5 apart."""


class Payload(torch.utils._python_dispatch.TorchDispatchMode):
    """Names and bytes of the collectives that torch.distributed starts."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()
        self.bytes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name.startswith("c10d::") and "barrier" not in name:
            self.seen[name] += 1
            tensors = [t for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
            self.bytes[name] += max((t.numel() * t.element_size() for t in tensors), default=0)
        return func(*args, **(kwargs or {}))


def collectives(action):
    """{name: [count, bytes]} of the collectives inside `action()`, counted twice: dispatched, and run by gloo."""
    with profile(activities=[ProfilerActivity.CPU]) as trace, Payload() as payload:
        action()
    run = sum(event.count for event in trace.key_averages() if event.key.startswith("gloo:"))
    assert run == sum(payload.seen.values()), (run, payload.seen)
    return {name: [count, payload.bytes[name]] for name, count in sorted(payload.seen.items())}


def logging(config: RunConfig) -> RunConfig:
    """The same run with DeepSpeed's log of its collectives."""
    values = config.model_dump()
    values["engine"]["deepspeed"]["comms_logger"] = {"enabled": True, "prof_all": True, "verbose": False}
    return parse(RunConfig, values, origin="test")


def logged() -> dict[str, dict[int, int]]:
    """{operation: {bytes of one message: how often}} since the last call, from DeepSpeed's log."""
    log = deepspeed.comm.comm.comms_logger
    found = {name: {size: of_size[0] for size, of_size in sizes.items()} for name, sizes in log.get_raw_data().items()}
    log.reset_data()
    return found


def measure(case: Case, pruned: bool) -> dict:
    """Collectives of one ordinary step, and of one refresh alone."""
    config = logging(case.config())
    torch.manual_seed(0)
    net = Net()
    scoped = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    wrapped, recipe = Engine(config, net, scoped), Recipe(config)
    pruner = MagnitudePruner(config.pruning, scoped, wrapped.weights) if pruned else NoPruner()
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    found = {}

    def update(step):
        wrapped.set_lr(recipe.at(step).lr)
        for _ in range(wrapped.accumulation):
            inputs = torch.ones(2, 66, dtype=dtype)
            wrapped.backward(share_of_loss(wrapped, inputs))
            wrapped.advance()
        pruner.after_step(recipe.at(step + 1))

    def refresh(step):
        pruner.before_step(recipe.at(step))

    for step in range(REFRESH + 1):
        if step == REFRESH:
            found["refresh"] = collectives(lambda step=step: refresh(step))
        else:
            refresh(step)
        if step == ORDINARY:
            logged()
            found["ordinary"] = collectives(lambda step=step: update(step))
            found["logged"] = logged()
        else:
            update(step)
    return found


if __name__ == "__main__":
    CASES = [
        Case(int(stage), precision, "retain" if int(stage) else "hard", False)
        for stage, precision in map(str.split, sys.argv[1:])
    ]
    start(CASES[0].config())
    reports = [{"dense": measure(case, False), "pruned": measure(case, True)} for case in CASES]
    Path(f"collectives-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
