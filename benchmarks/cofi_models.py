"""How fast exported CoFi models are beside the dense model that they were cut out of.

    python benchmarks/cofi_models.py runs/cofi_95/model runs/cofi_60/model --dense runs/dense/model [--json]

Both are the same stock transformers code with the same attention, in fp32, on full batches without padding; they take
turns, and a speed-up is the median of the ratios of neighbours, with p50 and p95 of the times.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402
from transformers import AutoModelForSequenceClassification, PreTrainedModel  # noqa: E402

from benchmarks.cofi import BATCHES, surroundings, times  # noqa: E402
from ofa.models.materialise import prunable_parameters  # noqa: E402
from ofa.tables import table  # noqa: E402


def main() -> None:
    """Measure and print."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER", help="exported models, by launch/cofi.py")
    parser.add_argument("--dense", required=True, metavar="FOLDER", help="what they are compared with")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, help="CPU threads; default: as torch decides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, as the JSON output has them."""
    dense = loaded(options.dense, options)
    weights = prunable_parameters(dense)
    rows = []
    for folder in options.models:
        small = loaded(folder, options)
        row = {"model": folder, "weights": prunable_parameters(small)}
        row["sparsity"] = 1 - row["weights"] / weights
        with torch.inference_mode():
            for batch in BATCHES:
                row |= times(dense, small, batch, options)
        rows.append(row)
    return {
        "models": rows,
        "dense": {"model": options.dense, "weights": weights},
        **surroundings(dense, options),
        "command": " ".join(["python", "benchmarks/cofi_models.py", *sys.argv[1:]]),
    }


def loaded(folder: str, options: argparse.Namespace) -> PreTrainedModel:
    """A folder's model, in fp32, ready to be asked."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval().to(options.device)


def report(found: dict[str, Any]) -> str:
    """For people."""
    head = ["model", "weights", "gone", *(f"x at batch {batch}" for batch in BATCHES), "p50, p95 ms at 1"]
    rows = []
    for row in found["models"]:
        speedups = [f"{row[f'speedup_batch{batch}']:.2f}" for batch in BATCHES]
        at_one = row["pruned_ms_batch1"]
        times_ = f"{at_one['p50']:.1f}, {at_one['p95']:.1f}"
        rows.append([row["model"], f"{row['weights']:,}", f"{row['sparsity']:.2%}", *speedups, times_])
    setting = ", ".join(f"{key} {value}" for key, value in found["setting"].items())
    return table(head, rows) + "\n" + setting


if __name__ == "__main__":
    main()
