"""One rank of test_gradients: makes one update and reports how its gradients differ from exact sums and from those of
plain torch, as JSON.

Run with one argument per case: "STAGE PRECISION".
"""

import json
import sys
from pathlib import Path

import torch

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.engine.copies import copies_of
from ofa.engine.engine import Engine
from ofa.engine.process import start
from tests.dist.mask_worker import Case, Net, share_of_loss
from tests.processes import end_rank


def config(stage: str, precision: str) -> RunConfig:
    """Two micro-batches on each of three ranks; nothing is clipped, so that Adam's first moment is 0.1 x gradient."""
    values = Case(int(stage), precision, "hard", persist=False).config().model_dump()
    values["batch"] = {"global_size": 12, "micro_size": 2}
    values["optimizer"]["max_grad_norm"] = 0.0
    return parse(RunConfig, values, origin="test")


def measure(case: str) -> dict[str, float]:
    """`error`: the largest of this rank's gradients, relative to the largest of their tensor, against the float64 sum
    of what autograd gave on every rank. `size`: of the whole gradient along that of plain torch, over that one's."""
    torch.manual_seed(0)
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    sums = {name: torch.zeros(p.numel(), dtype=torch.float64) for name, p in net.named_parameters()}
    wrapped = Engine(config(*case.split()), net, {name: p for name, p in net.named_parameters() if p.dim() > 1})
    for name, parameter in net.named_parameters():
        parameter.register_hook(adding_to(sums[name]))
    dtype = torch.bfloat16 if "bf16" in case else torch.float32
    generator = torch.Generator().manual_seed(dist.rank())
    for _ in range(wrapped.accumulation):
        inputs = torch.randn(2, 66, generator=generator)
        plain(inputs, 1 / (wrapped.accumulation * dist.world_size())).backward()
        wrapped.backward(share_of_loss(wrapped, inputs.to(dtype)))
        wrapped.advance()
    copies, errors, along, length = copies_of(wrapped._deepspeed), [], 0.0, 0.0
    for (name, parameter), other in zip(net.named_parameters(), plain.parameters(), strict=True):
        expected = other.grad.flatten()
        for tensor in (sums[name], expected):
            torch.distributed.all_reduce(tensor)
        exact = sums[name] / wrapped.loss_scale * wrapped.accumulation
        held = copies.held(parameter)
        if held is not None:
            found = held.moments[0].double() / 0.1
            errors.append(float((found - exact[held.start : held.stop]).abs().max() / exact.abs().max()))
        along, length = along + float(exact @ expected.double()), length + float(expected @ expected)
    return {"error": max(errors), "size": along / length}


def adding_to(total: torch.Tensor):
    """A hook that adds a gradient to a float64 total and leaves it as it is."""

    def hook(gradient: torch.Tensor) -> None:
        total.add_(gradient.detach().flatten())

    return hook


if __name__ == "__main__":
    start(config("1", "fp32"))
    reports = {case: measure(case) for case in sys.argv[1:]}
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
