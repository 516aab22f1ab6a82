"""How good and how fast exported CoFi models are beside the dense model that they were cut out of.

    python benchmarks/cofi_models.py runs/cofi_95/model runs/cofi_60/model --dense runs/dense/model [--json]

Scores are those of the validation split that stand in a model's recipe.json; nothing is scored here. Times are taken
here: both models are the same transformers code with the same attention, in fp32, on full rows without padding, called
in turns, and a speed-up is the median of the ratios of neighbours. Embeddings, pooler and head are in the times and not
in the weights that are counted: these are of the layers' Linears, as everywhere in CoFi.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from benchmarks import made_by
from benchmarks.model_pairs import BATCHES, Setting, check_alike, in_words, times
from ofa.export.recipe_file import RECIPE_FILE, read_recipe
from ofa.models.adapters import adapter_for
from ofa.models.build import load_model, read_config
from ofa.models.compact import AUTO_CLASSES
from ofa.models.materialise import prunable_parameters
from ofa.tables import table


def main() -> int:
    """Measure and print; status 1 for models that cannot be compared."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        found = measure(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER", help="exported models, by launch/cofi.py")
    parser.add_argument("--dense", required=True, metavar="FOLDER", help="what they are compared with")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, metavar="ROWS")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, help="CPU threads; default: as torch decides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, as the JSON output has them.

    Raises:
        ValueError: a model cannot be read, or is not to be compared with the dense one.
    """
    setting = Setting(options.length, options.rounds, options.device)
    dense = loaded(options.dense, setting)
    weights, rows = prunable_parameters(dense), []
    for folder in options.models:
        small = loaded(folder, setting)
        check_alike(dense, small)  # before any is timed
        row = described(folder, small)
        rows.append((small, {**row, "sparsity": 1 - row["weights"] / weights}))
    for small, row in rows:
        for batch in options.batches:
            row |= times(dense, small, batch, setting)
    return {
        "models": [row for _, row in rows],
        "dense": described(options.dense, dense),
        "setting": {**setting.described(dense), "batches": list(options.batches)},
        **made_by.made_by(),
    }


def loaded(folder: str, setting: Setting) -> PreTrainedModel:
    """A folder's model, of the class that it was saved as, ready to be asked.

    Raises:
        ValueError: it cannot be read, lacks weights, or takes shorter rows.
    """
    config = read_config(folder)
    longest = adapter_for(config.model_type).longest_sequence(config)
    if longest < setting.length:
        raise ValueError(f"{folder} takes rows of up to {longest} tokens, and --length is {setting.length}: lower it")
    name = (config.architectures or ["none"])[0]
    for auto in AUTO_CLASSES:
        if getattr(transformers, auto)._model_mapping[type(config)].__name__ == name:
            model, report = load_model(getattr(transformers, auto), folder, config, "sdpa")
            if report["missing_keys"]:
                raise ValueError(f"{folder} lacks weights: {', '.join(sorted(report['missing_keys'])[:4])}")
            nn.Module.to(model, device=setting.device)
            return model.eval()
    raise ValueError(f"{folder} is a {name}: expected the model folder of a run")


def described(folder: str, model: PreTrainedModel) -> dict[str, Any]:
    """What is known of a model without timing it."""
    recipe = read_recipe(Path(folder)) if (Path(folder) / RECIPE_FILE).is_file() else {}
    return {
        "model": folder,
        "scores": recipe.get("scores", {}).get("validation", {}),
        "scored_on": recipe.get("data"),
        "weights": prunable_parameters(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def report(found: Mapping[str, Any]) -> str:
    """For people: what the models are, then how long they take."""
    names = list(dict.fromkeys(name for row in [found["dense"], *found["models"]] for name in row["scores"]))
    head = ["model", "weights", "gone", "parameters", *(name.replace("_", " ") for name in names)]
    rows = [
        [row["model"], f"{row['weights']:,}", f"{row.get('sparsity', 0):.2%}", f"{row['parameters']:,}"]
        + [f"{row['scores'][name]:.4f}" if name in row["scores"] else "-" for name in names]
        for row in [found["dense"], *found["models"]]
    ]
    timed = ["model", "batch", "times as fast", "10-90 %", "dense p50 ms", "p95", "pruned p50 ms", "p95"]
    cells = [
        [row["model"], str(batch), *speed_cells(row, batch)]
        for row in found["models"]
        for batch in found["setting"]["batches"]
    ]
    last = [in_words(found["setting"]), made_by.in_words(found)]
    others = [row["model"] for row in found["models"] if row["scored_on"] != found["dense"]["scored_on"]]
    if others:
        last.insert(0, f"not scored on the dense model's data: {', '.join(others)}")
    return "\n".join([table(head, rows), "", table(timed, cells), "", *last])


def speed_cells(row: Mapping[str, Any], batch: int) -> list[str]:
    """Speed-up, its spread, and the times behind it."""
    ratios = row[f"ratios_batch{batch}"]
    both = [row[f"{name}_ms_batch{batch}"] for name in ("dense", "pruned")]
    times_ = [f"{one[key]:.2f}" for one in both for key in ("p50", "p95")]
    return [f"{ratios['median']:.2f}", f"{ratios['p10']:.2f}-{ratios['p90']:.2f}", *times_]


if __name__ == "__main__":
    sys.exit(main())
