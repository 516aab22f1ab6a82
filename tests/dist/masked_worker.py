"""One rank of test_masked: trains a small classifier under masks that differ between ranks, and the same in plain torch
without an engine, and reports both, as JSON.

Run with one argument per case: "STAGE PRECISION".
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa import dist
from ofa.downstream.cofi.gates import FAMILIES, Gates
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.engine.engine import Engine
from ofa.engine.process import start
from ofa.engine.settings import parameter_groups
from ofa.models.adapters import scope
from ofa.models.blocks import sizes_of
from ofa.models.structure import StructureMasks
from tests.dist.mask_worker import Case
from tests.processes import end_rank
from tests.task_parts import VOCABULARY, small_model

STEPS, LR = 20, 1e-3
DEAD = 1
"""The layer that never lives on the last rank, and on no other ever dies."""


class Classifier(nn.Module):
    """Gives the loss itself: cross-entropy, and a term of the recorded states of all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_model(num_hidden_layers=3)
        self.masked = MaskedForward(self.model)
        self.recorder = LayerRecorder(self.model)

    def forward(self, ids: Tensor, labels: Tensor, masks: StructureMasks, scale: float = 1.0) -> Tensor:
        """Mean over the micro-batch, times `scale`."""
        self.masked.set(masks)
        loss = functional.cross_entropy(self.model(input_ids=ids).logits.float(), labels)
        self.states = self.recorder.take()
        return (loss + 0.01 * sum(state.float().square().mean() for state in self.states)) * scale


def batch(rank: int, step: int, number: int) -> tuple[Tensor, Tensor]:
    """Ids [2, 9] and labels [2] of one micro-batch."""
    generator = torch.Generator().manual_seed(1000 * rank + 10 * step + number)
    ids = torch.randint(5, len(VOCABULARY), (2, 9), generator=generator)
    return ids, ids[:, 1] % 3


def masks_of(gates: Gates, rank: int, step: int, number: int) -> StructureMasks:
    """Another sample for each rank and micro-batch; one layer is forced."""
    torch.manual_seed(1000 * rank + 10 * step + number)
    masks = gates.sample()
    lives = rank < dist.world_size() - 1
    for sublayer, units in ((masks.attention, masks.head), (masks.ffn, masks.intermediate)):
        with torch.no_grad():
            units[DEAD], sublayer[DEAD] = float(lives), float(lives)
    return masks.canonical()


def gates_of(module: Classifier) -> Gates:
    """All families, at all values."""
    torch.manual_seed(0)
    return Gates(sizes_of(module.model), FAMILIES, mean=1.0, noise=1.0)


def in_an_engine(case: Case) -> dict:
    """Losses of each micro-batch on this rank, the gates' gradient, and whether the layer that has to die is dead."""
    module, config = Classifier(), case.config()
    gates = gates_of(module)
    engine = Engine(config, module, scope(module.model))
    engine.set_lr(LR)
    losses, same = [], 0
    for step in range(STEPS):
        for number in range(engine.accumulation):
            masks = masks_of(gates, dist.rank(), step, number)
            share = engine.loss_scale / (engine.accumulation * dist.world_size())
            loss = engine(*batch(dist.rank(), step, number), masks, share)
            engine.backward(loss)
            engine.advance()
            losses.append(float(loss.detach()) / share)
            same += torch.equal(module.states[DEAD - 1], module.states[DEAD])
    return {"losses": losses, "same": same, "gate_gradient": gates.log_alpha.grad.tolist()}


def in_plain_torch(case: Case) -> dict:
    """The same of all ranks, one micro-batch after the other."""
    module, config = Classifier(), case.config()
    gates = gates_of(module)
    groups = parameter_groups(module, scope(module.model), config.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=config.optimizer.betas, eps=config.optimizer.eps)
    micro_batches = config.batch.global_size // config.batch.micro_size
    losses = []
    mine = torch.zeros_like(gates.log_alpha)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(dist.world_size()):
            gates.zero_grad()
            for number in range(micro_batches // dist.world_size()):
                loss = module(*batch(rank, step, number), masks_of(gates, rank, step, number))
                (loss / micro_batches).backward()
                losses += [float(loss.detach())] if rank == dist.rank() else []
            mine += gates.log_alpha.grad if rank == dist.rank() else 0.0
        nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
    return {"losses": losses, "gate_gradient": mine.tolist()}


def train(case: Case) -> dict:
    """Both."""
    return {"engine": in_an_engine(case), "plain": in_plain_torch(case)}


if __name__ == "__main__":
    CASES = [Case(int(stage), precision, "hard", False) for stage, precision in map(str.split, sys.argv[1:])]
    start(CASES[0].config())
    reports = [train(case) for case in CASES]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
