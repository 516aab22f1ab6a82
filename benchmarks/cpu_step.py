"""What two settings are worth on a CPU: memory that is kept from step to step, which the engine does, and AdamW in one
pass over the weights, which it leaves.

    python benchmarks/cpu_step.py [--rows 16] [--sequence 16] [--precision fp32] [--json]

A step of fine-tuning under DeepSpeed ZeRO 1 on one thread: forward, backward, clipping, update, of an encoder in the
shape of MiniLM (6 layers of 384, 30,522 words) on random words. Each of the four combinations runs in a process of its
own, since a process cannot unlearn how it keeps memory, and they take turns; ratios are medians over rounds.

Why AdamW stays as it is there: torch's fused kernel on a CPU rounds whole vectors and the rest of an array differently,
so that the last bit of a weight depends on where it stands, and with it on how ranks divide the weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.made_by import made_by
from benchmarks.step_data import run_config
from ofa.engine import process
from ofa.engine.engine import Engine
from ofa.models.build import build_model
from ofa.tables import table
from ofa.timing import interleaved, ratios, timed

LAYERS, HIDDEN, HEADS, VOCAB = 6, 384, 12, 30522

VARIANTS = {
    "ours": (True, False),
    "default allocator": (False, False),
    "fused AdamW": (True, True),
    "fused AdamW, default allocator": (False, True),
}
"""Whether freed memory is kept, and whether AdamW is fused."""

WARM_UP = 3


@dataclass
class Step:
    """One update on a batch of random words, as `ofa.train` makes it."""

    engine: Engine
    words: Tensor

    def __call__(self) -> None:
        """Forward, backward, update."""
        self.engine.backward(self.engine(self.words) * self.engine.loss_scale)
        self.engine.advance()


class Encoder(nn.Module):
    """The encoder of a stock model, with a loss that reaches all of its weights."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder = model

    def forward(self, words: Tensor) -> Tensor:
        """A scalar, whose gradient costs what that of a task does."""
        return self.encoder(input_ids=words).last_hidden_state.float().square().mean()


def worker(variant: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Time a step whenever asked; say the peak memory in the end."""
    keeps, fused = VARIANTS[variant]
    if not keeps:
        process.keep_freed_memory = lambda: None
    if fused:
        adamw = torch.optim.AdamW
        torch.optim.AdamW = lambda *args, **kwargs: adamw(*args, **{**kwargs, "fused": True})  # type: ignore
    step = prepared_step(options)
    for _ in range(WARM_UP):
        step()
    pipe.send(None)
    while pipe.recv():
        pipe.send(timed(step))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def prepared_step(options: argparse.Namespace) -> Step:
    """A model under DeepSpeed, and its batch."""
    torch.set_num_threads(1)
    layers, hidden = (2, 32) if options.quick else (LAYERS, HIDDEN)
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    heads = {"num_attention_heads": 2 if options.quick else HEADS}
    architecture = {"model_type": "bert", "vocab_size": VOCAB, "max_position_embeddings": 512, **sizes, **heads}
    config = run_config(None, architecture, rows=options.rows, length=options.sequence, precision=options.precision)
    process.start(config)
    model = build_model(config.model, seed=1).base_model
    words = torch.randint(VOCAB, (options.rows, options.sequence))
    return Step(Engine(config, Encoder(model), {}), words)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratios and memory of all variants."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name in VARIANTS:
        pipes[name], theirs = context.Pipe()
        workers.append(context.Process(target=worker, args=(name, options, theirs), daemon=True))
        workers[-1].start()
        pipes[name].recv()

    def turn(name: str) -> float:
        pipes[name].send(True)
        return 1 / pipes[name].recv()

    rates = interleaved({name: lambda _, name=name: turn(name) for name in VARIANTS}, options.rounds)
    memory = {}
    for name, pipe in pipes.items():
        pipe.send(False)
        memory[name] = pipe.recv()
    for process_ in workers:
        process_.join()
    return {
        **made_by(threads=1),
        "settings": vars(options),
        "milliseconds": {name: 1e3 / statistics.median(found) for name, found in rates.items()},
        "peak_gib": memory,
        "speedup_of_ours_over": {name: ratios(rates["ours"], rates[name]) for name in VARIANTS if name != "ours"},
    }


def report(found: dict[str, Any]) -> str:
    """A table."""
    rows = []
    for name in VARIANTS:
        ratio = found["speedup_of_ours_over"].get(name, {"median": 1.0})["median"]
        rows.append([name, f"{found['milliseconds'][name]:.1f}", f"{ratio:.2f}", f"{found['peak_gib'][name]:.2f}"])
    return table(["step", "ms", "ours is faster by", "peak GiB"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--sequence", type=int, default=16, help="tokens of a row: 16 as in SST-2, 64 as in MRPC")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))


if __name__ == "__main__":
    main()
