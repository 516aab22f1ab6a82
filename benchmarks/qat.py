"""What training in 8 bits costs: its step against the float one.

    python benchmarks/qat.py [--json] [--quick] [--rows 32] [--length 64] [--device cuda] [--precision bf16]

A classifier of MiniLM's shape (6 layers of 384) with random weights; one step is forward, backward and a fused AdamW,
and in 8 bits one step of the moving averages; freed memory is kept, as in a run. Both are the same stock transformers
code on the same batch; they take turns, and a ratio is the median over rounds of neighbours, of processor time on a
CPU, which other processes change little, of wall time elsewhere. Ends with status 1 above 1.5 (PERF-33).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.made_by import made_by
from ofa.config import QuantizationConfig, TaskObjectiveConfig
from ofa.data.task_batches import TaskBatch, TaskTotals
from ofa.downstream.qat.assemble import quantised
from ofa.downstream.qat.training import QatTraining
from ofa.engine.process import keep_freed_memory
from ofa.models.task_training import TaskTraining
from ofa.timing import interleaved, ratios, timed

LIMIT = 1.5
PRESETS = ("ours", "published")


def main() -> int:
    """Measure, print, and judge."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0 if options.quick or is_right(found) else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="CPU threads; default: as torch decides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--quick", action="store_true", help="a tiny encoder and few rounds: does everything run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.length, options.rounds = 2, 8, 2
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, as the JSON output has them."""
    works = {name: step_of(None if name == "float" else name, options) for name in ("float", *PRESETS)}
    clock = processor_time if options.device == "cpu" else timed
    timings = {name: lambda _, work=work: clock(work, options.device) for name, work in works.items()}
    interleaved(timings, 1)
    found = interleaved(timings, options.rounds)
    setting = {key: getattr(options, key) for key in ("rows", "length", "rounds", "device", "precision")}
    return {
        **{name: ratios(found[name], found["float"]) for name in PRESETS},
        "seconds": {name: sorted(one)[len(one) // 2] for name, one in found.items()},
        "setting": setting | {"threads": torch.get_num_threads(), "padding": "none"},
        **made_by(),
    }


def processor_time(work: Callable[[], object], device: str) -> float:
    """Seconds of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def step_of(preset: str | None, options: argparse.Namespace) -> Callable[[], None]:
    """One training step of the float model (None), or in 8 bits."""
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    if options.quick:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=1000, **sizes)).train()
    nn.Module.to(model, options.device, torch.bfloat16 if options.precision == "bf16" else torch.float32)
    objective = TaskObjectiveConfig(ce_weight=1.0, kd_weight=0.0)
    batch, totals = batch_of(options)
    module, after = TaskTraining(model, "classification", objective), lambda: None
    if preset is not None:
        quantisers = quantised(model, QuantizationConfig.model_validate({"preset": preset}), options.device)
        module = QatTraining(model, "classification", objective, quantisers)
        with torch.no_grad(), quantisers.calibrating():
            module(batch)
        quantisers.ranges.commit()
        quantisers.learning, after = True, quantisers.ranges.commit
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        module(batch, totals)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        after()

    return step


def batch_of(options: argparse.Namespace) -> tuple[TaskBatch, TaskTotals]:
    """Random words, no padding, and labels."""
    shape = (options.rows, options.length)
    draw = torch.Generator().manual_seed(1)
    batch = TaskBatch(
        input_ids=torch.randint(1000, shape, generator=draw),
        attention_mask=torch.ones(shape, dtype=torch.long),
        token_type_ids=torch.zeros(shape, dtype=torch.long),
        labels=torch.randint(2, shape[:1], generator=draw),
        row_ids=torch.arange(options.rows),
    )
    return batch.to(options.device), TaskTotals(tokens=shape[0] * shape[1], counted=options.rows)


def is_right(found: dict[str, Any]) -> bool:
    """Whether every limit holds."""
    return all(found[name]["median"] <= LIMIT for name in PRESETS)


def report(found: dict[str, Any]) -> str:
    """For people."""
    setting = ", ".join(f"{key} {value}" for key, value in found["setting"].items())
    lines = [
        f"{name}: {found[name]['median']:.2f} x the float step ({found[name]['p10']:.2f} to {found[name]['p90']:.2f}; "
        f"limit {LIMIT})"
        for name in PRESETS
    ]
    return "\n".join([*lines, setting])


if __name__ == "__main__":
    sys.exit(main())
