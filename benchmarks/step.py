"""What our training step is worth against the reference's, on the same text in one run.

    python benchmarks/step.py [--json] [--quick] [--data FOLDER] [--device cuda --precision bf16]

The reference is a plain transformers step done the published code's way: one segment a row, padded to the longest of
the batch, masked by transformers' collator; logits at every position of student and teacher, distilled at every
position that is not padding; weights multiplied with fp32 masks in every forward; fused AdamW. Ours runs through the
modules of the product. Between them each improvement is switched on alone. Steps take turns, rates count real tokens,
ratios are medians over rounds (with their 10 % and 90 % quantiles). Default: the layer shape of BERT-base with two
layers and 30,522 words, 128 tokens a row; the text is docstrings of installed packages, tokenised by a WordPiece
vocabulary trained on them (prepared under data/ at the first run).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import architecture_of, parsed, size_options
from benchmarks.made_by import made_by
from benchmarks.step_batches import Batches, Layout, StepBatch, Text, make_batches
from benchmarks.step_counts import count
from benchmarks.step_data import loader_tokens_per_second, run_config, text_of
from benchmarks.step_report import overheads, report, rows_of, speedups
from benchmarks.step_variants import Models, Step, Variant, build_models, ladder
from ofa.config import CHECKOUT, RunConfig
from ofa.timing import interleaved, timed

BATCHES = 4
"""Batches that the rounds take in turn."""

QUICK = {"hidden": 64, "vocab": 500, "sequence": 32, "rows": 4, "pairs": 2, "data": "synthetic"}

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""Relative difference allowed between losses that should be equal."""


def main() -> None:
    """Measure and print."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))


def arguments() -> argparse.Namespace:
    """The command line."""
    of_rows = "a step; padded steps hold as many tokens"
    sizes = size_options(of_rows, layers=2, hidden=768, vocab=30522, sequence=128, rows=8)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[sizes]
    )
    parser.add_argument("--pairs", type=int, default=9, metavar="N", help="rounds in which every step has its turn")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--data", default="docstrings", help="docstrings, synthetic, or a prepared folder")
    parser.add_argument("--engine", choices=["torch", "deepspeed"], default="torch", help="deepspeed adds a row")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as torch decides")
    options = parsed(parser, QUICK)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.precision = options.precision or ("fp32" if options.device == "cpu" else "bf16")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows and ratios of one configuration, as the JSON output has them."""
    text, folder = text_of(
        options.data,
        rows=options.rows * BATCHES,
        length=options.sequence,
        vocab=options.vocab,
        cache=CHECKOUT / "data",
    )
    batches = make_batches(text, BATCHES).to(options.device)
    architecture = architecture_of(options.layers, options.hidden, len(text.tokenizer), text.length)
    models = build_models(architecture, precision=options.precision, device=options.device)
    variants = ladder(options.precision)
    note("comparing losses, counting, compiling")
    difference = loss_difference(variants, models, batches.check)
    counts = {name: count(variant, models, batches.typical(variant.layout)) for name, variant in variants.items()}
    works = {name: work_of(Step(variant, models), batches, options.device) for name, variant in variants.items()}
    config = run_config(folder, architecture, rows=options.rows, length=text.length, precision=options.precision)
    if options.engine == "deepspeed":
        works["all_deepspeed"] = deepspeed_work(config, models, batches)
    note(f"timing {len(works)} steps in {options.pairs} rounds")
    rates = interleaved(works, options.pairs)
    return {
        **surroundings(options, models),
        "text": description(text, batches),
        "largest_relative_loss_difference": difference,
        **speedups(rates),
        **(loader_figures(config, batches, rates) if folder else {}),
        "overheads": overheads(counts),
        "rows": rows_of(rates, counts),
    }


def note(text: str) -> None:
    """What is being done, for whoever waits: minutes pass in silence otherwise."""
    print(text, file=sys.stderr, flush=True)


def loss_difference(variants: Mapping[str, Variant], models: Models, check: Mapping[Layout, StepBatch]) -> float:
    """Largest relative difference between losses of one objective on one text, without dropout.

    Rows seen as one text are another objective; compiled layers are left to a test.

    Raises:
        ValueError: two steps that should compute the same loss do not.
    """
    losses: dict[tuple[bool, bool], dict[str, float]] = {}
    for name, variant in variants.items():
        if not variant.full_rows:
            step = Step(replace(variant, compile=False), models)
            objective = (variant.distil, variant.distil and variant.masked_head)
            losses.setdefault(objective, {})[name] = step.check_loss(check[variant.layout])
    worst = max((max(same.values()) - min(same.values())) / min(same.values()) for same in losses.values())
    if worst > TOLERANCE[models.precision]:
        raise ValueError(f"steps of one objective differ by {worst:.2g} in their losses: {losses}; find out why first")
    return worst


def work_of(step: Step, batches: Batches, device: str) -> Callable[[int], float]:
    """Real tokens per second of a step in a round; warmed up on its first batch, compiled for every shape of them."""
    mine = batches.by_layout[step.variant.layout]
    shapes = {one.labels.shape: one for one in mine} if step.variant.compile else {mine[0].labels.shape: mine[0]}
    with step.installed():
        for batch in shapes.values():
            step(batch)

    def work(number: int) -> float:
        batch = mine[number % len(mine)]
        with step.installed():
            return batch.totals.tokens / timed(lambda: step(batch), device)

    return work


def deepspeed_work(config: RunConfig, models: Models, batches: Batches) -> Callable[[int], float]:
    """Our step as the product makes it, under DeepSpeed."""
    from benchmarks.step_engine import EngineStep  # takes seconds to import, and DeepSpeed is not on every machine

    step, mine = EngineStep(config, models), batches.by_layout["packed"]
    step(mine[0])
    return lambda number: (
        mine[number % len(mine)].totals.tokens / timed(lambda: step(mine[number % len(mine)]), models.device)
    )


def loader_figures(config: RunConfig, batches: Batches, rates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How much faster one thread makes batches than a step uses them, and how transformers' collator compares."""
    rate = loader_tokens_per_second(config)
    return {
        "loader_tokens_per_second": rate,
        "collator_tokens_per_second": batches.collator_tokens_per_second,
        "loader_over_step": rate / statistics.median(rates["all"]),
        "loader_over_collator": rate / batches.collator_tokens_per_second,
    }


def description(text: Text, batches: Batches) -> dict[str, Any]:
    """Where the text is from, how full its rows are, and what a step of each layout holds."""
    held = {
        layout: {"shape": list(some[0].labels.shape), "real_tokens": [one.totals.tokens for one in some]}
        for layout, some in batches.by_layout.items()
    }
    return {"source": text.source, "fill_of_padded_rows": text.fill, "batches": held}


def surroundings(options: argparse.Namespace, models: Models) -> dict[str, Any]:
    """What a figure is worthless without."""
    return {
        **made_by(),
        "settings": {**vars(options), "parameters": sum(p.numel() for p in models.students[False].parameters)},
    }


if __name__ == "__main__":
    main()
