"""One rank of test_plain: a user's own loop under DistributedDataParallel, with pruning or the lock, as JSON.

Run with one argument per case: prune, lock.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ofa import dist
from ofa.config import PruningConfig, ScheduleConfig
from ofa.pruning.lock import PatternLock, zeros_of
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.plain import PlainWeights
from ofa.recipe import Recipe
from tests.dist.elastic_worker import with_zeros
from tests.processes import end_rank

STEPS = 16
PRUNING = PruningConfig(sparsity=0.9, ramp_end=8, end=12, frequency=2, regrow=False)


def train(case: str) -> dict:
    """Global batches of 8 rows whatever the number of ranks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(66, 129), nn.GELU(), nn.Linear(129, 66))
    scoped = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    if case == "lock":
        with_zeros(scoped)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.01)
    weights = PlainWeights(scoped, optimizer)
    if case == "lock":
        pruner = PatternLock(zeros_of(scoped), scoped, weights)
    else:
        pruner = MagnitudePruner(PRUNING, scoped, weights)
    recipe, wrapped = Recipe.of(ScheduleConfig(total_steps=STEPS), 1e-2, PRUNING), DistributedDataParallel(net)
    for step in range(STEPS):
        pruner.before_step(recipe.at(step))
        rows = torch.randn(8, 66, generator=torch.Generator().manual_seed(step))[dist.rank() :: dist.world_size()]
        optimizer.zero_grad()
        (wrapped(rows) - rows.sin()).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
    keep = pruner.keep
    copies = {name: [p.detach(), *(v for v in optimizer.state[p].values() if v.dim())] for name, p in scoped.items()}
    behind = {name: [copy[~keep[name]].view(torch.int32) for copy in some] for name, some in copies.items()}
    return {
        "behind": {name: [int(bits.count_nonzero()) for bits in some] for name, some in behind.items()},
        "zeros": {name: int((~mask).sum()) for name, mask in keep.items()},
        "mask_hash": pruner.state_dict()["mask_hash"],
    }


if __name__ == "__main__":
    torch_dist.init_process_group("gloo")
    reports = [train(case) for case in sys.argv[1:]]
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(reports))
    end_rank()
