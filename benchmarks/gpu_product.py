"""The training command as it is, at full size: what DeepSpeed, loader, refreshes and checkpoints leave of the step.

In: settings. Out: a line a variant. `command`: launch/pretrain.py from its start to its report, on prepared data of
random words with a dense teacher; its own metrics say the rate. Then each ZeRO stage in a process of its own, through
the parts of the same loop: tokens per second on a batch in memory, what a step with the loader takes over that, what a
mask refresh and a checkpoint cost.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a worker this file is a script

import torch

from benchmarks.gpu_common import Found, Settings, pretrain, python, write_data
from benchmarks.loader import measure as loader_and_step
from ofa.assemble import assemble
from ofa.config import RunConfig, parse
from ofa.engine.process import start, stop
from ofa.run_folder import RunFolder
from ofa.timing import timed
from ofa.train import save

STEPS, QUICK_STEPS = 300, 12
TURNS = 7

VARIANTS: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"engine.zero_stage": 1},
    "ZeRO 1, compiled": {"engine.zero_stage": 1, "engine.compile": True},
    "ZeRO 2, compiled": {"engine.zero_stage": 2, "engine.compile": True},
    "ZeRO 3": {"engine.zero_stage": 3},
    "ZeRO 0, fp32, hard": {"engine.zero_stage": 0, "engine.precision": "fp32", "pruning.regrow": False},
}
"""What differs from the recipe. ZeRO 0 serves fp32 and hard masks only."""


def measure(settings: Settings) -> Found:
    """Run the command, then every variant."""
    place, steps = settings.place, QUICK_STEPS if settings.quick else STEPS
    config = recipe(settings, steps)
    sizes = config["model"]["architecture"]
    length = config["data"]["sequence_length"]
    write_data(place / "data", rows=400 if settings.quick else 6000, length=length, vocab=sizes["vocab_size"])
    dense = {**config, "schedule": {"total_steps": 0, "warmup_steps": 0}}
    del dense["pruning"]
    teacher = str(pretrain(place, "teacher", dense) / "model")
    config["model"]["init"], config["teacher"] = teacher, {"init": teacher}
    found = {"command": command(place, changed(config, {"engine.compile": not settings.quick}))}
    rows = [["command", *command_cells(found["command"])]]
    notes = [f"{config['batch']['global_size']} rows of {length} tokens a step; loader on one thread over the step"]
    for name, changes in list(VARIANTS.items())[:1] if settings.quick else VARIANTS.items():
        try:
            found[name] = worker(place, changed(config, changes))
            rows.append([name, *cells(found[name])])
        except RuntimeError as error:
            rows.append([name, "failed", "", "", "", "", "", ""])
            notes.append(f"{name}: {str(error)[-600:]}")
    head = ["", "tokens/s", "step ms", "loader/step", "step with loader", "refresh ms", "checkpoint s", "peak GB"]
    return Found(head, rows, {"variants": found, "config": config}, all(row[1] != "failed" for row in rows), notes)


def recipe(settings: Settings, steps: int) -> dict[str, Any]:
    """Sparse pre-training of BERT-base with distillation, 16 thousand tokens a step; small when quick."""
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    if settings.quick:
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    length, vocab, rows = (64, 300, 8) if settings.quick else (512, 30522, 32)
    refreshes = {"ramp_end": steps // 2, "end": steps * 3 // 4, "frequency": max(1, steps // 12)}
    return {
        "data": {"path": str(settings.place / "data"), "sequence_length": length, "workers": 2},
        "model": {
            "architecture": {
                "model_type": "bert",
                "vocab_size": vocab,
                "max_position_embeddings": length,
                **sizes,
            },
        },
        "batch": {"global_size": rows, "micro_size": rows},
        "optimizer": {"lr": 1e-4},
        "schedule": {"total_steps": steps, "warmup_steps": 2},
        "pruning": {"sparsity": 0.9, **refreshes},
        "engine": {"precision": settings.precision, "compile": False},
        "evaluate": {"every": steps, "rows": 64 if not settings.quick else 16},
        "checkpoint": {"every": steps},
        "log": {"every": max(1, steps // 30), "tensorboard": False},
    }


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some `section.key` values replaced."""
    copy = json.loads(json.dumps(config))
    for key, value in changes.items():
        section, name = key.split(".")
        copy[section][name] = value
    return copy


def command(place: Path, config: dict[str, Any]) -> dict[str, float]:
    """The command's wall seconds and, from its metrics, the rate after the first third."""
    began = time.perf_counter()
    folder = pretrain(place, "product", config)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    last = [line for line in lines if "mfu" in line][-1]
    settled = rates[len(rates) // 3 :]
    return {"seconds": seconds, "tokens_per_second": statistics.median(settled), "mfu": last["mfu"]}


def command_cells(found: Mapping[str, float]) -> list[str]:
    """The command's line; the last column says how long it took from start to report."""
    return [f"{found['tokens_per_second']:,.0f}", "", "", "", "", f"all: {found['seconds']:,.0f}", ""]


def cells(found: Mapping[str, float]) -> list[str]:
    """A variant's line."""
    milliseconds = 1000 * found["tokens_of_a_step"] / found["step_tokens_per_second"]
    figures = [f"{found['step_tokens_per_second']:,.0f}", f"{milliseconds:,.1f}", f"{found['ratio']:,.1f}"]
    figures += [f"{found['step_with_loader']:.2f}", f"{1000 * found['refresh_seconds']:,.1f}"]
    return [*figures, f"{found['checkpoint_seconds']:.2f}", f"{found['peak_bytes'] / 1e9:.1f}"]


def worker(place: Path, config: dict[str, Any]) -> dict[str, float]:
    """Measure one variant in a process of its own."""
    (place / "variant.json").write_text(json.dumps(config))
    return json.loads(python("benchmarks/gpu_product.py", "variant.json", cwd=place).splitlines()[-1])


def variant(config: RunConfig) -> dict[str, float]:
    """Rates, refresh and checkpoint of one variant, in this process."""
    start(config)
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(config, RunFolder(Path(folder)), None, name="benchmark")
        device = str(run.engine.device)
        refreshes = [knobs for knobs in map(run.recipe.at, range(run.recipe.total_steps)) if knobs.update_mask]
        took = [timed(lambda knobs=knobs: run.pruner.before_step(knobs), device) for knobs in refreshes[:5]]
        found = loader_and_step(run, TURNS)
        found["refresh_seconds"] = statistics.median(took)
        found["checkpoint_seconds"] = timed(lambda: save(run, 1), device)
        run.progress.stop()
    found["tokens_of_a_step"] = run.loader.global_batch(0)[0].tokens
    found["peak_bytes"] = torch.cuda.max_memory_allocated() if device != "cpu" else 0
    stop()
    return found


if __name__ == "__main__":
    print(json.dumps(variant(parse(RunConfig, json.loads(Path(sys.argv[1]).read_text()), origin=sys.argv[1]))))
