"""One rank of test_multipliers: trains a net with gates under DeepSpeed and reports, as JSON, the first update's
gradient of the gates and what gates and multipliers were after each of many.

Run with one argument per case: "STAGE ACCUMULATION PRECISION [long]"; what is long makes many updates.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.downstream.cofi.budget import parameter_costs
from ofa.downstream.cofi.gates import Gates, open_probability
from ofa.downstream.cofi.lagrangian import GateOptimizer, Lagrangian
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.models.structure import Sizes
from tests.dist.mask_worker import Case
from tests.processes import end_rank

SIZES = Sizes(layers=1, heads=1, head_size=2, intermediate=129, hidden=66)
COSTS = parameter_costs(SIZES)
GLOBAL, STEPS, TARGET = 8, 100, 0.8
MULTIPLIERS = (-0.01, 0.02)
"""Of the first update: the Lagrangian then pulls about as hard as the task."""


class GatedNet(nn.Module):
    """A feed-forward network whose dimensions have gates, which are no part of it; gives the loss."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(66, 129), nn.Linear(129, 66)
        self.masks = lambda: torch.ones(129)

    def forward(self, inputs: Tensor, scale: float = 1.0) -> Tensor:
        """Of reproducing a sine, times `scale`."""
        inner = nn.functional.gelu(self.up(inputs)) * self.masks().to(inputs.dtype)
        return ((self.down(inner) - inputs.sin()) ** 2).mean() * scale


def config(stage: str, accumulation: str, precision: str) -> RunConfig:
    """Of a run on so many ranks as there are."""
    values = Case(int(stage), precision, "hard", persist=False).config().model_dump()
    micro = GLOBAL // (int(accumulation) * dist.world_size())
    values["batch"] = {"global_size": GLOBAL, "micro_size": micro}
    return parse(RunConfig, values, origin="test")


def new_gates() -> Gates:
    """About half open, all different, the same on every rank."""
    torch.manual_seed(0)
    return Gates(SIZES, ("intermediate", "ffn"), mean=0.0, noise=1.0)


def rows(step: int) -> Tensor:
    """The global batch of a step."""
    return torch.randn(GLOBAL, 66, generator=torch.Generator().manual_seed(1000 + step))


def sampled(gates: Gates) -> Tensor:
    """[129]"""
    masks = gates.sample()
    return masks.intermediate[0] * masks.ffn[0]


def certain(gates: Gates) -> Tensor:
    """Masks without chance, so that the gradient does not depend on who draws what."""
    views = gates.of_families()
    return open_probability(views["intermediate"])[0] * open_probability(views["ffn"])[0]


def oracle() -> list[float]:
    """The gradient of the gates in the first update, in plain torch on one process."""
    torch.manual_seed(1)
    net, gates = GatedNet(), new_gates()
    net.masks = lambda: certain(gates)
    excess = COSTS.sparsity(COSTS.expected(gates.open_probabilities())) - TARGET
    (net(rows(0)) + MULTIPLIERS[0] * excess + MULTIPLIERS[1] * excess**2).backward()
    return gates.log_alpha.grad.tolist()


class Training:
    """Engine, gates and their optimizer."""

    def __init__(self, case: str):
        torch.manual_seed(1)
        self.net, self.gates, self.lagrangian = GatedNet(), new_gates(), Lagrangian()
        self.dtype = torch.bfloat16 if "bf16" in case else torch.float32
        self.engine = Engine(config(*case.split()[:3]), self.net, {})
        self.optimizer = GateOptimizer(self.gates, self.lagrangian, COSTS, lr=0.05, ranks=dist.ranks())
        self.gradients: list[Tensor] = []
        for optimizer in (self.optimizer._of_gates, self.optimizer._of_multipliers):
            optimizer.register_step_pre_hook(self._look)

    def _look(self, optimizer: torch.optim.Optimizer, *_) -> None:
        self.gradients += [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]

    def step(self, step: int) -> None:
        """This rank's share of the global batch, in micro-batches, each with masks of its own."""
        self.gradients.clear()
        mine = rows(step).chunk(dist.world_size())[dist.rank()]
        torch.manual_seed(100 * step + dist.rank())
        for micro in mine.chunk(self.engine.accumulation):
            share = len(micro) / GLOBAL * self.engine.loss_scale
            self.engine.backward(self.engine(micro.to(self.dtype), share))
            self.engine.advance()
        self.optimizer.step(TARGET, self.engine.outer_scale)

    def digest(self) -> str:
        """Of the bits of gates, multipliers, and of the gradients that they were updated with."""
        state = (self.gates.log_alpha.detach(), self.lagrangian.multipliers.detach(), *self.gradients)
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state)).hexdigest()


def first_gradient(case: str) -> list[float]:
    """Of the gates, as their optimizer saw it."""
    training = Training(case)
    training.net.masks = lambda: certain(training.gates)
    with torch.no_grad():
        training.lagrangian.multipliers.copy_(torch.tensor(MULTIPLIERS))
    training.step(0)
    return training.gradients[0].tolist()


def hundred_steps(case: str) -> dict:
    """With masks that differ between ranks and micro-batches."""
    training = Training(case)
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        drawn.append(sampled(training.gates))
        return drawn[-1]

    training.net.masks = draw
    digests = []
    for step in range(STEPS):
        training.step(step)
        digests.append(training.digest())
    masks = hashlib.sha256(torch.stack(drawn).detach().numpy().tobytes()).hexdigest()
    sparsity = COSTS.sparsity(COSTS.expected(training.gates.open_probabilities()))
    dtypes = [str(training.gates.log_alpha.dtype), str(training.lagrangian.multipliers.dtype)]
    return {"digests": digests, "masks": masks, "sparsity": float(sparsity.detach()), "dtypes": dtypes}


if __name__ == "__main__":
    start(config("1", "1", "fp32"))
    reports = [
        hundred_steps(case) if "long" in case else {"first": first_gradient(case), "oracle": oracle()}
        for case in sys.argv[1:]
    ]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
