"""One rank of test_layer_distillation: makes updates with a module that distils layers and reports how its first
gradient differs from that of plain torch over the global batch, as JSON.

Run with one argument per case: "STAGE PRECISION". Ranks differ in the width of their rows, so in the number of chunks,
and in the layers that live.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.config import RunConfig, parse
from ofa.downstream.cofi.layer_distillation import LayerDistillation
from ofa.engine.copies import copies_of
from ofa.engine.engine import Engine
from ofa.engine.process import start
from tests.dist.mask_worker import Case
from tests.processes import end_rank

LAYERS, WIDTH, TEACHER_WIDTH, UPDATES = 5, 24, 17, 3


class Net(nn.Module):
    """Layers in a row, with a loss of their own and that of the layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.distillation = LayerDistillation(WIDTH, TEACHER_WIDTH)

    def forward(self, batch: list[Tensor], scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """`scale` times the sum over tokens, and the alignment."""
        states, teacher, mask, alive = batch
        recorded = []
        for layer in self.layers:
            states = states + layer(states).tanh()
            recorded.append(states)
        loss, alignment = self.distillation(recorded, teacher, mask, alive, "monotone")
        return (loss + (states.square().mean(-1) * mask).sum()) * scale, alignment


def config(case: str) -> RunConfig:
    """Two micro-batches a rank; nothing is clipped, so that Adam's first moment is 0.1 x gradient."""
    stage, precision = case.split()
    values = Case(int(stage), precision, "hard", persist=False).config().model_dump()
    values["optimizer"]["max_grad_norm"] = 0.0
    return parse(RunConfig, values, origin="test")


def batch(rank: int, number: int, dtype: torch.dtype) -> list[Tensor]:
    """(states, teacher, mask, alive): 600 tokens on rank 0, 80 on rank 1."""
    generator = torch.Generator().manual_seed(10 * rank + number)
    length = (300, 40)[rank]
    mask = torch.arange(length) < torch.tensor([[length], [length // 3]])
    alive = torch.ones(LAYERS, dtype=torch.bool)
    alive[rank + 1] = False
    states, teacher = ((2, length, WIDTH), (3, 2, length, TEACHER_WIDTH))
    draws = [torch.randn(size, generator=generator).to(dtype) for size in (states, teacher)]
    return [*draws, mask.long(), alive]


def measure(case: str) -> dict:
    """`errors`: of this rank's share of the first gradient, by parameter, relative to the largest of its tensor; and
    the alignments of its first micro-batches, `found` by the engine's module and `expected` by plain torch."""
    torch.manual_seed(0)
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    wrapped = Engine(config(case), net, {name: p for name, p in net.named_parameters() if p.dim() > 1})
    dtype = torch.bfloat16 if "bf16" in case else torch.float32
    numbers = range(wrapped.accumulation)
    everything = [(rank, number) for rank in range(dist.world_size()) for number in numbers]
    tokens = sum(int(batch(*where, dtype)[2].sum()) for where in everything)
    alignments = []
    for where in everything:
        loss, alignment = plain([t.float() if t.is_floating_point() else t for t in batch(*where, dtype)], 1 / tokens)
        loss.backward()
        alignments.append(alignment.tolist())
    found, errors = [], {}
    for update in range(UPDATES):
        for number in numbers:
            loss, alignment = wrapped(batch(dist.rank(), number, dtype), wrapped.loss_scale / tokens)
            wrapped.backward(loss)
            wrapped.advance()
            found.append(alignment.tolist())
        for (name, parameter), other in zip(net.named_parameters(), plain.parameters(), strict=True):
            held = copies_of(wrapped._deepspeed).held(parameter) if update == 0 else None
            if held is not None:
                expected = other.grad.flatten()
                difference = held.moments[0] / 0.1 - expected[held.start : held.stop]
                errors[name] = float(difference.abs().max() / expected.abs().max())
    mine = alignments[dist.rank() * len(numbers) :][: len(numbers)]
    return {"errors": errors, "found": found[: len(numbers)], "expected": mine, "updates": len(found) // len(numbers)}


if __name__ == "__main__":
    start(config("1 fp32"))
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps([measure(case) for case in sys.argv[1:]]))
    end_rank()
