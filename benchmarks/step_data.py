"""The text of the step benchmark: a prepared folder, docstrings prepared on the spot, or random words.

In: what the command line says. Out: a `Text`, and the folder it was read from, whose loader can then be measured too.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from benchmarks.step_batches import Text, prepared_text, synthetic_text
from data_prep.pipeline import finished, prepare
from ofa.config import DataPrepConfig, RunConfig
from ofa.data.loader import Loader
from ofa.data.shards import Corpus
from ofa.timing import timed

DOCSTRINGS = ["torch", "transformers", "numpy"]
"""Distributions whose docstrings are read beside the standard library's: what every machine with the project has."""

LOADER_STEPS = 20
"""Global batches made in one turn of the loader."""


def text_of(source: str, *, rows: int, length: int, vocab: int, cache: Path) -> tuple[Text, Path | None]:
    """`rows` rows of text and the prepared folder they are from, if they are.

    Args:
        source: `synthetic`, `docstrings`, or a prepared folder; of the last, length and vocabulary are its own.
        cache: where docstrings are prepared, once.

    Raises:
        ValueError: the folder is none, or has too few rows.
    """
    if source == "synthetic":
        return synthetic_text(rows, length, vocab), None
    folder = _prepared_docstrings(cache, length, vocab) if source == "docstrings" else Path(source)
    return prepared_text(folder, rows), folder


def _prepared_docstrings(cache: Path, length: int, vocab: int) -> Path:
    config = DataPrepConfig.model_validate(
        {
            "source": {"kind": "docstrings", "distributions": DOCSTRINGS},
            "clean": {"min_characters": 40, "drop_code_lines": True},
            "tokenizer": {"vocab_size": vocab},
            "sequence_length": length,
        }
    )
    folder = cache / f"step_{vocab}_{length}"
    if finished(config, folder) is None:
        print(f"preparing docstrings of {', '.join(['python', *DOCSTRINGS])} in {folder}", file=sys.stderr)
        prepare(config, folder, 1, lambda *_: None)
    return folder


def run_config(
    folder: Path | None, architecture: dict[str, object], *, rows: int, length: int, precision: str
) -> RunConfig:
    """A run of `rows` rows a step, as far as loader and engine ask for one."""
    return RunConfig.model_validate(
        {
            "model": {"architecture": architecture},
            "data": {"path": str(folder or "none"), "sequence_length": length},
            "batch": {"global_size": rows, "micro_size": rows},
            "optimizer": {"lr": 1e-5},
            "schedule": {"total_steps": 1000},
            "engine": {"precision": precision, "threads": torch.get_num_threads()},
        }
    )


def loader_tokens_per_second(config: RunConfig, turns: int = 5) -> float:
    """Median rate at which one thread reads, lays out and masks batches of the run, in real tokens."""
    loader = Loader(Corpus.open(config.data.path), config)
    rates = []
    for turn in range(turns):
        steps = range(turn * LOADER_STEPS, (turn + 1) * LOADER_STEPS)
        tokens = sum(loader.totals(step).tokens for step in steps)
        rates.append(tokens / timed(lambda steps=steps: [loader.global_batch(step) for step in steps]))
    return statistics.median(rates)
