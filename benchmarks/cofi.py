"""What structured pruning is worth in time: an encoder of the published 95 % structure against the dense one.

    python benchmarks/cofi.py [--json] [--quick] [--length 128] [--device cuda]

BERT-base's shape with random weights, and of the structures that CoFi's authors report at 95 % (cofi.md 3.7: on average
1.15 heads and 101 intermediate dimensions a layer, counting layers that are gone; feed-forward networks are dropped
more than attentions) three drawn from seeds, so that none is picked by hand; beside them one of the same averages of
which no sublayer is gone. Dense and pruned are the same stock transformers code with the same attention, in fp32,
batches full and without padding; they take turns, and a speed-up is the median of the ratios of neighbours. Ends with
status 1 below the limits: 94 % of the weights gone, ten times as fast at batch 1 and 8, masked and cut-out logits equal
to 1e-4, counts exact (PERF-30, PERF-31).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.made_by import made_by
from benchmarks.model_pairs import BATCHES, Setting, in_words, rows, times
from ofa.downstream.cofi.budget import mac_costs, parameter_costs
from ofa.downstream.cofi.masked import MaskedForward
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise, prunable_parameters
from ofa.models.structure import Sizes, StructureMasks

HEADS_A_LAYER, DIMS_A_LAYER = 1.15, 101
ALIVE = {"attention": 0.75, "ffn": 0.6}
"""Share of sublayers that live; the report says only that some are gone, feed-forward networks more often."""

ALL_ALIVE = {"attention": 1.0, "ffn": 1.0}
"""The hardest case of the same averages: all 24 sublayers are left to be called."""

LIMITS = {"speedup_batch1": 10.0, "speedup_batch8": 10.0, "sparsity": 0.94}
TOLERANCE = 1e-4


def main() -> int:
    """Measure, print, and judge."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0 if options.quick or is_right(found) else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--structures", type=int, default=3, metavar="N", help="drawn from seeds 0 to N - 1")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as torch decides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny encoder and few rounds: does everything run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.structures, options.length = 2, 1, 16
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, as the JSON output has them."""
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256} if options.quick else {}
    dense = BertForSequenceClassification(BertConfig(num_hidden_layers=12, vocab_size=1000, **shape)).eval()
    structures = [drawn(sizes_of(dense), seed, ALIVE) for seed in range(options.structures)]
    setting, batches = Setting(options.length, options.rounds, options.device), (1,) if options.quick else BATCHES
    found = [measure_one(dense, masks, setting, batches) for masks in structures]
    all_alive = measure_one(dense, drawn(sizes_of(dense), 0, ALL_ALIVE), setting, batches)
    middle = {key: statistics.median(row[key] for row in found) for key in found[0] if key.startswith("speedup")}
    return {
        **middle,
        "sparsity": min(row["sparsity"] for row in found),
        "max_logit_difference": max(row["max_logit_difference"] for row in (*found, all_alive)),
        "structures": found,
        "all_alive": all_alive,
        "setting": setting.described(dense),
        **made_by(),
    }


def drawn(sizes: Sizes, seed: int, alive: Mapping[str, float]) -> StructureMasks:
    """A structure of the published averages: heads and groups of 8 dimensions fall at random on the sublayers that
    live, such a share of all, and on each of these at least one."""
    draw = torch.Generator().manual_seed(seed)
    scale = sizes.intermediate / 3072
    heads = spread(round(HEADS_A_LAYER * sizes.layers), sizes.layers, sizes.heads, alive["attention"], draw)
    groups = round(scale * DIMS_A_LAYER * sizes.layers / 8)
    dims = spread(groups, sizes.layers, sizes.intermediate // 8, alive["ffn"], draw)
    masks = StructureMasks.ones(sizes)
    for layer in range(sizes.layers):
        masks.head[layer, heads[layer] :] = 0
        masks.intermediate[layer, 8 * dims[layer] :] = 0
    return masks.canonical()


def spread(units: int, layers: int, most: int, alive: float, draw: torch.Generator) -> list[int]:
    """Numbers of units by layer: one for each of the layers that live, the rest at random among them."""
    living = torch.randperm(layers, generator=draw)[: max(1, round(alive * layers))].tolist()
    found = [0] * layers
    for number in range(units):
        room = [layer for layer in living if found[layer] < most]
        layer = living[number] if number < len(living) else room[int(torch.randint(len(room), (), generator=draw))]
        found[layer] += 1
    return found


def measure_one(
    dense: PreTrainedModel, masks: StructureMasks, setting: Setting, batches: Sequence[int]
) -> dict[str, Any]:
    """One structure: what is left of it, whether it computes what it should, and how long both take."""
    sizes, small = sizes_of(dense), materialise(dense, masks).eval()
    for model in (dense, small):
        nn.Module.to(model, device=setting.device)
    counted, macs = parameter_costs(sizes), mac_costs(sizes, setting.length)
    left = prunable_parameters(small)
    row: dict[str, Any] = {
        "heads": masks.head.sum(dim=1).int().tolist(),
        "dims": masks.intermediate.sum(dim=1).int().tolist(),
        "weights": left,
        "weights_by_masks": int(counted.of(masks)),
        "sparsity": 1 - left / counted.total,
        "encoder_flops": encoder_flops(small, setting.length),
        "encoder_flops_by_masks": 2 * int(macs.of(masks)),
        "max_logit_difference": logit_difference(dense, small, masks, setting),
    }
    for batch in batches:
        row |= times(dense, small, batch, setting)
    return row


def encoder_flops(model: PreTrainedModel, length: int) -> int:
    """Matrix products of the layers for one row, counted by torch while they run, attention written out (eager)."""
    before = model.config._attn_implementation or "sdpa"
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.zeros(1, length, dtype=torch.long, device=model.device))
    model.set_attn_implementation(before)
    found = counter.get_flop_counts()
    return sum(found[next(name for name in found if name.endswith(".encoder"))].values())


def logit_difference(dense: PreTrainedModel, small: PreTrainedModel, masks: StructureMasks, setting: Setting) -> float:
    """Largest difference of logits between the masked model and the one that was cut out."""
    inputs = rows(dense, 8, setting)
    with torch.inference_mode(), MaskedForward(dense) as masked:
        masked.set(masks)
        expected = dense(input_ids=inputs).logits
    with torch.inference_mode():
        return float((small(input_ids=inputs).logits - expected).abs().max())


def is_right(found: dict[str, Any]) -> bool:
    """Whether every limit holds."""
    exact = all(
        row["weights"] == row["weights_by_masks"] and row["encoder_flops"] == row["encoder_flops_by_masks"]
        for row in (*found["structures"], found["all_alive"])
    )
    return exact and found["max_logit_difference"] <= TOLERANCE and all(found[k] >= v for k, v in LIMITS.items())


def report(found: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{found['sparsity']:.2%} of the encoder's weights gone; logits differ by {found['max_logit_difference']:.1e}"
    ]
    for batch in BATCHES:
        key = f"speedup_batch{batch}"
        if key in found:
            each = ", ".join(f"{row[key]:.1f}" for row in found["structures"])
            lines.append(
                f"batch {batch}: {found[key]:.1f} x (structures: {each}; "
                f"no sublayer gone: {found['all_alive'][key]:.1f})"
            )
    return "\n".join([*lines, in_words(found["setting"])])


if __name__ == "__main__":
    sys.exit(main())
