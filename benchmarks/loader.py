"""How fast batches are made, beside training on them and beside transformers' collator.

    python benchmarks/loader.py [--config tiny/teacher.json] [--set data.workers=2] [--json]

`ratio`: tokens per second of the loader on one thread (read, lay out, mask) over those of training; at least 5 is
wanted. `step_with_loader`: time of a step that takes its batch from the loader's threads over that of a step on a batch
kept in memory; at most 1.01 on a GPU, where the processor is free. `masking_over_collator`, `loader_over_collator`:
rates on the same rows and the same core as `DataCollatorForLanguageModeling`, which only pads and masks; at least 20 is
wanted of the first. All are measured in turns in one process on the same shards; the medians of ratios count, absolute
rates belong to the machine. The exit status is 1 if a figure is not as wanted; the table says which.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before this folder, whose data_prep.py would hide the package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from benchmarks.made_by import made_by
from ofa.assemble import PretrainingRun, assemble
from ofa.config import RunConfig, load
from ofa.data.loader import Loader
from ofa.data.masking import MaskedRows, MaskingRules, mask_rows
from ofa.data.rows import RowReader
from ofa.data.shards import Corpus
from ofa.engine.process import start, stop
from ofa.run_folder import RunFolder, hardware
from ofa.tables import table
from ofa.timing import interleaved, ratios, timed
from ofa.train import update

BLOCK = 10
"""Steps in one turn."""

MASKED_AT_ONCE = 64
"""Rows that masking and the collator get at a time."""

AT_LEAST = {"ratio": 5.0, "masking_over_collator": 20.0}
AT_MOST_ON_A_GPU = {"step_with_loader": 1.01}
"""The figures that are wanted."""


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny/teacher.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load(RunConfig, options.config, [*options.overrides, "log.tensorboard=false"])
    start(config)
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(config, RunFolder(Path(folder)), None, name="benchmark")
        device = run.engine.device.type
        found = {**measure(run, options.turns), **masking_rates(run.corpus, config, options.turns)}
        run.progress.stop()
    stop()
    said = {**found, "trained_on": device, **made_by()}
    print(json.dumps(said) if options.json else report(found, device, config))
    return 0 if is_right(found, device) else 1


def verdicts(found: Mapping[str, float], device: str) -> dict[str, tuple[str, bool]]:
    """By figure that has a limit on this type of device: what is wanted, and whether it is so."""
    said = {name: (f"at least {limit:g}", found[name] >= limit) for name, limit in AT_LEAST.items()}
    if device != "cpu":
        said |= {name: (f"at most {limit:g}", found[name] <= limit) for name, limit in AT_MOST_ON_A_GPU.items()}
    return said


def is_right(found: Mapping[str, float], device: str) -> bool:
    """Whether every figure is as wanted where training ran on this type of device."""
    return all(holds for _, holds in verdicts(found, device).values())


def measure(run: PretrainingRun, turns: int) -> dict[str, float]:
    """Rates of the loader and of training in real tokens per second, and their ratios."""
    device = str(run.engine.device)
    kept = run.loader.global_batch(0)
    kept = (kept[0], [batch.to(run.engine.device) for batch in kept[1]])
    ahead = run.loader.batches(0)
    updates(run, [kept] * 2)

    def made(turn: int) -> float:
        steps = range(turn * BLOCK, (turn + 1) * BLOCK)
        return tokens_of(run.loader, steps) / timed(lambda: [run.loader.global_batch(step) for step in steps])

    def trained(_: int) -> float:
        return kept[0].tokens * BLOCK / timed(lambda: updates(run, [kept] * BLOCK), device)

    def trained_with_loader(turn: int) -> float:
        tokens = tokens_of(run.loader, range(turn * BLOCK, (turn + 1) * BLOCK))
        return tokens / timed(lambda: updates(run, [next(ahead) for _ in range(BLOCK)]), device)

    made(0)  # reads its first window of records, which serves many steps
    rates = interleaved({"loader": made, "step": trained, "step_with_loader": trained_with_loader}, turns)
    ahead.close()
    over_step = ratios(rates["loader"], rates["step"])
    return {
        "loader_tokens_per_second": statistics.median(rates["loader"]),
        "step_tokens_per_second": statistics.median(rates["step"]),
        "ratio": over_step["median"],
        "smallest_ratio": min(a / b for a, b in zip(rates["loader"], rates["step"], strict=True)),
        "step_with_loader": ratios(rates["step"], rates["step_with_loader"])["median"],
    }


def updates(run: PretrainingRun, batches: Sequence) -> None:
    """One update on each batch, at the start of the recipe."""
    for batch in batches:
        update(run, run.recipe.at(0), *batch)


def tokens_of(loader: Loader, steps: range) -> int:
    """Real tokens of the global batches of some steps."""
    return sum(loader.totals(step).tokens for step in steps)


@dataclass(frozen=True)
class SameRows:
    """The first rows of a corpus, laid out for two ways to mask them."""

    tokens: int
    """Real tokens."""
    mask: Callable[[int], MaskedRows]
    """Our masking, of a seed."""
    collate: Callable[[], Mapping[str, Any]]
    """transformers' collator, which also pads."""


def same_rows(corpus: Corpus, config: RunConfig, number: int) -> SameRows:
    """The first `number` training rows, or as many as there are."""
    split = corpus.split("train")
    rows = RowReader(split, 2).read(np.arange(min(number, split.total_rows)))
    bounds = np.concatenate([[0], np.cumsum(rows.lengths)])
    texts = [rows.tokens[a:b].tolist() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    special = set(corpus.special.values())
    examples = [{"input_ids": ids, "special_tokens_mask": [int(one in special) for one in ids]} for ids in texts]
    tokenizer = AutoTokenizer.from_pretrained(str(corpus.tokenizer_path))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.data.mask_probability)
    padded = np.full((len(texts), corpus.sequence_length), corpus.special["pad"], dtype=np.int64)
    for row, ids in enumerate(texts):
        padded[row, : len(ids)] = ids
    real = np.arange(corpus.sequence_length) < rows.lengths[:, None]
    rules = MaskingRules.of(config.data, corpus.special, corpus.vocab_size, corpus.tokenizer_path)
    ids, epochs = np.arange(len(texts)), np.zeros(len(texts), np.int64)
    return SameRows(
        tokens=int(rows.lengths.sum()),
        mask=lambda seed: mask_rows(padded, real, seed=seed, epochs=epochs, row_ids=ids, rules=rules),
        collate=lambda: collator(examples),
    )


def masking_rates(corpus: Corpus, config: RunConfig, turns: int) -> dict[str, float]:
    """PERF-21: tokens per second of our masking, of the whole loader, and of transformers' collator, in one thread."""
    rows, loader = same_rows(corpus, config, MASKED_AT_ONCE), Loader(corpus, config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def loaded(turn: int) -> float:
        steps = range(turn * BLOCK, (turn + 1) * BLOCK)
        return tokens_of(loader, steps) / timed(lambda: [loader.global_batch(step) for step in steps])

    loaded(0)
    works = {
        "masking": lambda turn: rows.tokens / timed(lambda: rows.mask(turn)),
        "loader": loaded,
        "collator": lambda _: rows.tokens / timed(rows.collate),
    }
    rates = interleaved(works, turns)
    torch.set_num_threads(threads)
    return {
        "masking_tokens_per_second": statistics.median(rates["masking"]),
        "collator_tokens_per_second": statistics.median(rates["collator"]),
        "masking_over_collator": ratios(rates["masking"], rates["collator"])["median"],
        "loader_over_collator": ratios(rates["loader"], rates["collator"])["median"],
    }


def report(found: Mapping[str, float], device: str, config: RunConfig) -> str:
    """One table, and what it was measured on."""
    said = verdicts(found, device)
    rows = []
    for key, value in found.items():
        wanted, holds = said.get(key, ("", None))
        shown = f"{value:,.{0 if value > 1000 else 2}f}"
        rows.append([key.replace("_", " "), shown, wanted, {None: "", True: "yes", False: "NO"}[holds]])
    batch = f"{config.batch.global_size} rows of {config.data.sequence_length} tokens a step"
    machine = hardware()
    threads = f"{machine['threads']} threads for training"
    return f"{table(['', 'median', 'wanted', 'holds'], rows)}\n{batch}; {machine['device']}, {threads}"


if __name__ == "__main__":
    sys.exit(main())
