"""How much faster batches are made than trained on: python benchmarks/loader.py [--config tiny/ofa_90.json] [--json]

Both rates are measured in one process on the same shards, in turns: a block of batches made, then a block of updates.
The median of the ratios is what counts; absolute rates belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ofa.assemble import Run, assemble
from ofa.config import RunConfig, load
from ofa.engine.process import start, stop
from ofa.run_folder import RunFolder
from ofa.train import update

BLOCK = 10
"""Steps in one turn."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny/teacher.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load(RunConfig, options.config, [*options.overrides, "log.tensorboard=false"])
    start(config)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(assemble(config, RunFolder(Path(folder)), None, name="benchmark"), options.turns)
    stop()
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{key:28}{value:,.1f}" for key, value in found.items()))


def measure(run: Run, turns: int) -> dict[str, float]:
    """Median rates in tokens per second and the median of their ratios."""
    tokens = run.config.batch.global_size * run.config.data.sequence_length * BLOCK
    made, trained = [], []
    train_block(run, 0)
    for turn in range(turns):
        steps = range(turn * BLOCK, (turn + 1) * BLOCK)
        made.append(tokens / seconds(lambda steps=steps: [run.loader.global_batch(step) for step in steps]))
        trained.append(tokens / seconds(lambda turn=turn: train_block(run, turn * BLOCK)))
    ratios = [fast / slow for fast, slow in zip(made, trained, strict=True)]
    return {
        "loader_tokens_per_second": statistics.median(made),
        "step_tokens_per_second": statistics.median(trained),
        "ratio": statistics.median(ratios),
        "smallest_ratio": min(ratios),
    }


def train_block(run: Run, first: int) -> None:
    """BLOCK updates, their batches made before."""
    for step in range(first, first + BLOCK):
        update(run, run.recipe.at(step), *run.loader.global_batch(step))


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
