"""What must hold after an injury and at the end of a run.

In: run folders. Out: what is wrong with one, in words, and how far two are apart. Nothing here starts or stops
anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.chaos_lanes import SPARSITY
from ofa.checkpoint import check
from ofa.export.masks_file import MASKS_FILE, read_masks
from ofa.export.verify import verify_folder
from ofa.metrics import read_metrics
from ofa.run_files import read_json
from ofa.run_folder import RunFolder
from tests.run_files import metrics, model_bytes

LEAST_EQUAL = 0.999
"""Share of mask places that runs of other world sizes and stages must have in common."""

LOSS_TOLERANCE = 1e-5
"""Relative difference of their losses, at most: sums of other orders round differently. Undisturbed runs of 1, 2 and 4
ranks at ZeRO 1, 2 and 3 were 2e-7 apart, with all mask places equal."""


LOSSES = ("loss", "validation_loss")


@dataclass(frozen=True)
class Difference:
    """Of a run from the undisturbed one."""

    same_bytes: bool
    """Of every exported file, and of every metrics line without its times."""
    same_counts: bool
    """Every mask drops as many weights."""
    same_places: float
    """Share of all places of all masks."""
    loss: float
    """Largest relative difference of a loss; infinite where lines are missing or too many."""

    def is_right(self, exact: bool) -> bool:
        """Whether it may be."""
        if exact:
            return self.same_bytes
        return self.same_counts and self.same_places >= LEAST_EQUAL and self.loss <= LOSS_TOLERANCE


def step_in_force(folder: RunFolder) -> int:
    """The step of the checkpoint from which the next start must continue; 0 if there is none yet.

    Raises:
        ValueError: `latest` names one that is not there; a run would go back to the one before, and may not have to.
    """
    pointer = folder.checkpoints / "latest"
    if pointer.is_file():
        path = folder.checkpoints / pointer.read_text().strip()
        if not path.is_dir():
            raise ValueError(f"latest names {path.name}, which is not there")
    else:
        path = max(folder.checkpoints.glob("step-*"), default=None)
    return int(path.name.removeprefix("step-")) if path else 0


def folder_problems(folder: RunFolder) -> list[str]:
    """What stands half-written under a final name."""
    problems = []
    for path in sorted(folder.checkpoints.glob("step-*")):
        problems += failure(path.name, lambda path=path: check(path))
    problems += failure("checkpoints", lambda: step_in_force(folder))
    problems += failure(folder.metrics.name, lambda: read_metrics(folder.metrics))
    for path in (folder.config, folder.result):
        if path.exists():
            problems += failure(path.name, lambda path=path: read_json(path))
    if folder.model.exists():
        problems += failure(folder.model.name, lambda: verified(folder.model))
    return problems


def verified(model: Path) -> None:
    """What `launch/verify.py` asks of a model.

    Raises:
        ValueError: it is not whole.
    """
    problems = verify_folder(model, SPARSITY).problems
    if problems:
        raise ValueError("; ".join(f"{found.where}: {found.what}" for found in problems))


def failure(name: str, look: Callable[[], object]) -> list[str]:
    """What looking at something says against it."""
    try:
        look()
    except (ValueError, OSError) as error:
        return [f"{name}: {error}"]
    return []


def difference(run: Path, undisturbed: Path) -> Difference:
    """How a finished run differs from the undisturbed one."""
    masks, expected = (read_masks(path / "model" / MASKS_FILE) for path in (run, undisturbed))
    lines, expected_lines = metrics(run), metrics(undisturbed)
    return Difference(
        same_bytes=model_bytes(run) == model_bytes(undisturbed) and lines == expected_lines,
        same_counts=counts(masks) == counts(expected),
        same_places=equal_places(masks, expected),
        loss=loss_difference(lines, expected_lines),
    )


def counts(masks: dict[str, torch.Tensor]) -> dict[str, int]:
    """Weights that live, by tensor."""
    return {name: int(keep.sum()) for name, keep in masks.items()}


def equal_places(masks: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Share of all places at which both say the same; 0 if they are not of the same tensors."""
    if {name: keep.shape for name, keep in masks.items()} != {name: keep.shape for name, keep in expected.items()}:
        return 0.0
    equal = sum(int((keep == expected[name]).sum()) for name, keep in masks.items())
    return equal / sum(keep.numel() for keep in masks.values())


def loss_difference(lines: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> float:
    """The largest relative difference of training and validation losses, line by line."""
    one, other = losses(lines), losses(expected)
    if one.keys() != other.keys() or not other or len(lines) != len(expected):
        return math.inf
    return max(abs(one[key] - loss) / abs(loss) for key, loss in other.items())


def losses(lines: Iterable[dict[str, Any]]) -> dict[tuple[int, str], float]:
    """Training and validation losses by step and name."""
    return {(line["step"], name): line[name] for line in lines for name in LOSSES if name in line}


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of every rank's samples log."""
    paths = sorted((folder / "samples").glob("rank-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def samples_once(lines: Iterable[dict[str, Any]], *, rows: int, global_size: int, steps: int) -> bool:
    """Whether every step was made by each of its ranks once, and every row was read once per epoch.

    It counts by itself and not through `ofa.samples`, which takes the last of two lines for the right one. A line is
    what one rank has read in one step: `step`, its batch's number `batch`, `rank`, `world_size`, and the row ids of
    each of its micro-batches, of which number m stands at m * world_size + rank in the batch.
    """
    batches: dict[int, dict[int, list[int]]] = {}
    ranks: dict[int, list[tuple[int, int]]] = {}
    for line in lines:
        ranks.setdefault(line["step"], []).append((line["world_size"], line["rank"]))
        batch = batches.setdefault(line["batch"], {})
        for number, ids in enumerate(line["rows"]):
            batch.setdefault(number * line["world_size"] + line["rank"], []).extend(ids)
    for found in ranks.values():
        if sorted(found) != [(len(found), rank) for rank in range(len(found))]:
            return False
    read = [[row for place in sorted(batch) for row in batch[place]] for _, batch in sorted(batches.items())]
    if sorted(ranks) != list(range(steps)) or any(len(batch) != global_size for batch in read):
        return False
    order = [row for batch in read for row in batch]
    epochs = [order[first : first + rows] for first in range(0, len(order), rows)]
    return len(read) == steps and all(is_pass(epoch, rows) for epoch in epochs)


def is_pass(epoch: list[int], rows: int) -> bool:
    """Whether these are different rows of the corpus; all of them, if they are as many."""
    return len(set(epoch)) == len(epoch) and all(0 <= row < rows for row in epoch)
