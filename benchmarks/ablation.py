"""What each part of the sparse recipe is worth, measured on the embedded default: several seeds, the same extra steps.

    python benchmarks/ablation.py --output results/ablation [--seeds 0 1 2] [--steps 1000] [--jobs 2]

Every variant starts from the teacher of its seed and trains the same number of further steps on the same batches:
the dense model continued, one-shot pruning retrained, gradual pruning without and with distillation, and a model whose
scope is as good as zero (one weight of each tensor is left, because the sparsity of a run is below 1). Each run is a
plain `launch/pretrain.py`, so a campaign that was interrupted continues where it was. Writes a JSON and a Markdown
table, and a picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt

CHECKOUT = Path(__file__).resolve().parents[1]
SHUFFLE_WINDOW = 16
"""Records shuffled together when the published table was made: 1,000 steps then see a quarter of the shards."""

ALMOST_ALL = 0.999999
"""floor(s * numel) leaves one weight of every tensor."""

ONE_SHOT = {"pruning.ramp_end": 0, "pruning.end": 0, "pruning.frequency": 1, "schedule.rewind": None}
NO_TEACHER = {"teacher": None, "objective.ce_weight": None, "objective.kd_weight": None}

VARIANTS = {
    "dense, continued": {**NO_TEACHER, "pruning": None, "schedule.rewind": None},
    "one-shot, retrained": {**NO_TEACHER, **ONE_SHOT},
    "gradual, without KD": NO_TEACHER,
    "gradual, with KD": {},
    "scope zero, retrained": {**NO_TEACHER, **ONE_SHOT, "pruning.sparsity": ALMOST_ALL},
}
"""Name in the table: what differs from configs/tiny/ofa_90.json."""


def main() -> None:
    """Run what is missing, then write the tables."""
    options = arguments()
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda seed: run(options, "teacher", seed, {}), options.seeds))
        cells = [(name, seed) for seed in options.seeds for name in VARIANTS]
        list(pool.map(lambda cell: run(options, cell[0], cell[1], VARIANTS[cell[0]]), cells))
    write(options, collect(options))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "results" / "ablation", help="path without a suffix")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="where the run folders go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    return parser.parse_args()


def folder_of(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Run folder of one cell."""
    return options.runs / f"{name.replace(',', '').replace(' ', '_')}-{seed}"


def run(options: argparse.Namespace, name: str, seed: int, changes: dict[str, object]) -> None:
    """One cell; finished ones return at once."""
    config, folder = "tiny/teacher.json", folder_of(options, name, seed)
    settings: dict[str, object] = {"seed": seed, "engine.threads": 1, "evaluate.rows": None, "log.tensorboard": False}
    settings["data.shuffle_window"] = SHUFFLE_WINDOW
    if name != "teacher":
        model = str(folder_of(options, "teacher", seed) / "model")
        config = "tiny/ofa_90.json"
        settings |= {"model.init": model, "teacher.init": model}
    # A section that is taken away comes last, after the values inside it.
    settings |= dict(sorted(changes.items(), key=lambda item: -item[0].count(".")))
    command = [sys.executable, str(CHECKOUT / "launch" / "pretrain.py"), "--config", config, "--run-dir", str(folder)]
    for key, value in settings.items():
        if not (key.startswith("teacher.") and changes.get("teacher", 0) is None):
            command += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.out").open("w") as out:
        subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
    print(f"{folder.name}: done", flush=True)


def collect(options: argparse.Namespace) -> dict[str, object]:
    """Scores of every cell and of the three references, with what made them."""
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name in VARIANTS:
            result = json.loads((folder_of(options, name, seed) / "result.json").read_text())
            rows.setdefault(name, []).append({"seed": seed, **score(result["rows"][-1])})
            if name == "gradual, with KD":
                for reference, label in zip(result["rows"], ("teacher", "one-shot, untrained", "floor"), strict=False):
                    rows.setdefault(label, []).append({"seed": seed, **score(reference)})
    record = json.loads((folder_of(options, "gradual, with KD", options.seeds[0]) / "config.json").read_text())
    made_by = {key: record[key] for key in ("commit", "versions", "hardware", "data_fingerprint")}
    return {"command": " ".join(["python", "benchmarks/ablation.py", *sys.argv[1:]]), **made_by, "rows": rows}


def score(row: dict[str, float]) -> dict[str, float]:
    """What is compared."""
    return {key: row[key] for key in ("validation_loss", "masked_accuracy", "scope_sparsity")}


def write(options: argparse.Namespace, found: dict) -> None:
    """JSON, table and picture."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    summary = {name: [cell["validation_loss"] for cell in cells] for name, cells in found["rows"].items()}
    order = sorted(summary, key=lambda name: statistics.mean(summary[name]))
    lines = [
        "| model | scope zeros | validation loss, mean (range over seeds) | masked accuracy |",
        "|---|---|---|---|",
    ]
    for name in order:
        cells, losses = found["rows"][name], summary[name]
        accuracy = statistics.mean(cell["masked_accuracy"] for cell in cells)
        spread = f"{statistics.mean(losses):.4f} ({min(losses):.4f} - {max(losses):.4f})"
        lines.append(f"| {name} | {cells[0]['scope_sparsity']:.2%} | {spread} | {accuracy:.2%} |")
    options.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    picture(options.output.with_suffix(".png"), order, summary)


def picture(path: Path, order: list[str], losses: dict[str, list[float]]) -> None:
    """One dot a seed, the worst model on top."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for height, name in enumerate(order):
        axes.plot(losses[name], [height] * len(losses[name]), "o", color="#1f6f8b", alpha=0.75)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel("validation loss (nats per predicted token), one dot a seed")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
