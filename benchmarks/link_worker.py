"""One rank of `benchmarks/link.py`: reads a word a line, does it, and prints what it took as JSON.

`update` of the product, `backward` of its loss without anything that is sent, `send`: the step's bytes alone,
`describe`: what it runs on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as torch_dist

from benchmarks.common import architecture_of
from benchmarks.gpu_common import write_data
from benchmarks.made_by import in_words, made_by
from ofa import dist
from ofa.assemble import PretrainingRun, assemble
from ofa.config import RunConfig, parse
from ofa.cost import size_of, wire_bytes
from ofa.engine.process import start
from ofa.run_folder import RunFolder
from ofa.train import update

UPDATES = 3
"""Between two looks at the clock."""


def config(settings: dict[str, Any], data: Path, *, overlap: bool) -> RunConfig:
    """Dense training in fp32, with buckets small enough that there are several."""
    values = {
        "model": {
            "architecture": architecture_of(
                settings["layers"], settings["hidden"], settings["vocab"], settings["sequence"]
            )
        },
        "data": {"path": str(data), "sequence_length": settings["sequence"]},
        "batch": {"global_size": settings["rows"] * dist.world_size(), "micro_size": settings["rows"]},
        "optimizer": {"lr": 1e-4},
        "schedule": {"total_steps": 1000},
        "engine": {
            "threads": 1,
            "deepspeed": {"zero_optimization": {"overlap_comm": overlap, "reduce_bucket_size": 500_000}},
        },
        "log": {"tensorboard": False},
    }
    return parse(RunConfig, values, origin="benchmarks/link.py")


def works(run: PretrainingRun, asked: RunConfig) -> dict[str, Callable[[], dict[str, Any]]]:
    """By word."""
    totals, micro = run.loader.global_batch(0)
    size = size_of(run.module.model)
    formula = wire_bytes(asked, size, dist.world_size())

    def updates() -> dict[str, Any]:
        return {"updates": UPDATES, "formula": formula, **_timed(lambda: update(run, run.recipe.at(1), totals, micro))}

    def backward() -> dict[str, Any]:
        """Its share of forward and backward, as a gradient of inputs and weights costs twice the forward."""
        loss = lambda: run.module(micro[0], totals, None, 1)[0]  # noqa: E731
        parameters = [p for p in run.module.parameters() if p.requires_grad]
        both = _timed(lambda: torch.autograd.grad(loss(), parameters, allow_unused=True))
        return {"seconds": both["seconds"] * 2 / 3}

    def send() -> dict[str, Any]:
        gradients = torch.zeros(size.parameters)
        parts = torch.zeros(-(-size.parameters // dist.world_size()))
        whole = torch.zeros(parts.numel() * dist.world_size())

        def once() -> None:
            torch_dist.all_reduce(gradients)
            torch_dist.all_gather_into_tensor(whole, parts)

        return _timed(once)

    def describe() -> dict[str, Any]:
        made = made_by(threads=1)
        return {**made, "command": "python benchmarks/link.py", "in_words": in_words(made)}

    return {"update": updates, "backward": backward, "send": send, "describe": describe}


def _timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of one, over several."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(UPDATES):
        work()
    dist.barrier()
    return {"seconds": (time.perf_counter() - began) / UPDATES}


def main() -> None:
    """Do what is asked until nobody asks any more."""
    settings, overlap = json.loads(os.environ["OFA_SETTINGS"]), json.loads(os.environ["OFA_OVERLAP"])
    folder = Path(f"rank-{os.environ['MASTER_PORT']}-{os.environ['MASTER_ADDR']}-{dist.rank()}")
    write_data(folder / "data", rows=8 * settings["rows"], length=settings["sequence"], vocab=settings["vocab"])
    asked = config(settings, folder / "data", overlap=overlap)
    start(asked)
    answers, sys.stdout = sys.stdout, sys.stderr
    able = works(assemble(asked, RunFolder(folder), None, name="link"), asked)
    for line in sys.stdin:
        print(json.dumps(able[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main()
