"""Every ZeRO stage, precision and mode on two ranks of DeepSpeed's own launcher: do masks agree, does a zero come back?

    python benchmarks/stages.py [--json FILE]

Each row is one run of a small BERT by the product's own loop under `deepspeed --num_gpus 2`, on the CPU: a cubic ramp
to 90 %, accumulation, clipping and weight decay. At the end every rank hashes its masks and counts what is not zero
behind them in the live weights, the fp32 masters and both moments. The exit status is 1 if a row is not as it must be,
or if stages end with different masks in fp32.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.made_by import made_by
from ofa import dist
from ofa.assemble import PretrainingRun, assemble
from ofa.board import open_board
from ofa.config import RunConfig, parse
from ofa.engine.process import start, stop
from ofa.evaluate import masked_lm_score
from ofa.run_folder import RunFolder
from ofa.stop import StopAgreement, StopRequest
from ofa.tables import table
from ofa.train import train
from tests.corpora import write_corpus

CASES = [("0", "fp32", "hard"), *product("123", ("fp32", "bf16"), ("hard", "retain"))]
RANKS = 2
SPARSITY = Fraction(9, 10)
ON_THE_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def config(stage: str, precision: str, mode: str) -> RunConfig:
    """A run of 24 steps whose weights do not divide evenly among ranks."""
    architecture = {
        "model_type": "bert",
        "vocab_size": 200,
        "hidden_size": 66,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 129,
        "max_position_embeddings": 64,
    }
    pruning = {"sparsity": float(SPARSITY), "ramp_end": 12, "end": 18, "frequency": 3, "regrow": mode == "retain"}
    divided = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == "3" else {}
    return parse(
        RunConfig,
        {
            "model": {"architecture": architecture},
            "data": {"path": "data", "sequence_length": 64, "shuffle_window": 2},
            "batch": {"global_size": 8, "micro_size": 2},
            "optimizer": {"lr": 2e-3, "weight_decay": 0.01, "max_grad_norm": 1.0},
            "schedule": {"total_steps": 24, "warmup_steps": 2},
            "pruning": pruning,
            "engine": {"zero_stage": int(stage), "precision": precision, "threads": 1, "deepspeed": divided},
            "checkpoint": {"every": 1000},
            "evaluate": {"every": 1000},
            "log": {"tensorboard": False},
        },
        origin="benchmarks/stages.py",
    )


def worker(stage: str, precision: str, mode: str) -> None:
    """One rank of one row: train, then write what it found to rank-N.json."""
    run_config = config(stage, precision, mode)
    start(run_config)
    run = assemble(run_config, RunFolder(Path("run")), None, name="stages")
    train(run, StopAgreement(StopRequest(run.folder.stop), open_board()))
    run.progress.stop()
    keep = run.pruner.keep
    masters_and_moments = [
        int(torch.count_nonzero(copy[~mask]))
        for name, mask in keep.items()
        for copy in run.engine.weights.full_copies(name)
    ]
    assert len(masters_and_moments) == 3 * len(keep)
    found = {
        "mask_hash": run.pruner.state_dict()["mask_hash"],
        "behind_the_masks": sum(masters_and_moments) + alive_in_a_forward(run),
        "zeros": sum(int((~mask).sum()) for mask in keep.values()),
        "zeros_asked": sum(math.floor(SPARSITY * mask.numel()) for mask in keep.values()),
        "weights": sum(mask.numel() for mask in keep.values()),
    }
    Path(f"rank-{dist.rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    stop()


def alive_in_a_forward(run: PretrainingRun) -> int:
    """Weights outside the masks that are not zero while a forward uses them, whoever gathers them for it."""
    alive = 0

    def look(name: str):
        def hook(module: torch.nn.Module, inputs: object) -> None:
            nonlocal alive
            weight = module.get_parameter("weight")
            alive += int(torch.count_nonzero(weight[~run.pruner.keep[name]]))

        return hook

    for name in run.pruner.keep:
        run.module.model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(look(name))
    masked_lm_score(run.module, run.validation())
    return alive


def measure(case: tuple[str, str, str]) -> dict[str, Any]:
    """Run one row under DeepSpeed's launcher in a folder of its own."""
    launcher = Path(sys.executable).with_name("deepspeed")
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "data", rows=240)
        (Path(folder) / "run").mkdir()
        path = f"{launcher.parent}:{os.environ['PATH']}"
        command = [str(launcher), "--num_gpus", str(RANKS), str(Path(__file__).resolve()), "--worker", *case]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path, **ON_THE_CPU}
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        ranks = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return {
        "zero_stage": case[0],
        "precision": case[1],
        "mode": case[2],
        "mask_hashes": [rank["mask_hash"] for rank in ranks],
        "zeros": ranks[0]["zeros"],
        "zeros_asked": ranks[0]["zeros_asked"],
        "weights": ranks[0]["weights"],
        "not_zero_behind_the_masks": sum(rank["behind_the_masks"] for rank in ranks),
        "came_back_at_refreshes": sum(line.get("revived", 0) for line in lines),
        "last_loss": [line for line in lines if "loss" in line][-1]["loss"],
    }


def is_right(row: dict[str, Any]) -> bool:
    """All ranks hold one mask of as many zeros as asked; nothing lives behind it; weights came back in the mode that
    lets them, only."""
    agree, came_back = len(set(row["mask_hashes"])) == 1, row["came_back_at_refreshes"] > 0
    asked = row["zeros"] == row["zeros_asked"] > 0
    return agree and asked and not row["not_zero_behind_the_masks"] and came_back == (row["mode"] == "retain")


def stages_agree(rows: list[dict[str, Any]]) -> bool:
    """In fp32 every stage ends with the same masks, mode by mode; in bf16 their sums may round differently."""
    of_modes: dict[str, set[str]] = {}
    for row in rows:
        if row["precision"] == "fp32":
            of_modes.setdefault(row["mode"], set()).update(row["mask_hashes"])
    return all(len(hashes) == 1 for hashes in of_modes.values())


def show(rows: list[dict[str, Any]]) -> str:
    """One line a row; the hash is shortened."""
    head = ["ZeRO, precision, mode", "masks, rank 0", "rank 1", "zeros", "alive behind them", "came back", "last loss"]
    lines = [
        [
            f"{row['zero_stage']} {row['precision']} {row['mode']}",
            *(found[:12] for found in row["mask_hashes"]),
            f"{row['zeros']:,} of {row['weights']:,}",
            str(row["not_zero_behind_the_masks"]),
            str(row["came_back_at_refreshes"]),
            f"{row['last_loss']:.5f}",
        ]
        for row in rows
    ]
    return table(head, lines)


def main() -> int:
    """Measure every row, print the table, and say whether all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the rows here")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()  # DeepSpeed's launcher adds --local_rank
    if options.worker:
        worker(*options.worker)
        return 0
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print(f"{len(rows)} of {len(CASES)}", file=sys.stderr)
    print(show(rows))
    if options.json:
        found = {
            "rows": rows,
            "ranks": RANKS,
            "config": config(*CASES[0]).model_dump(mode="json"),
            **made_by(),
        }
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(map(is_right, rows)) and stages_agree(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
