"""A structure in numbers and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ofa.files import write_text
from ofa.models.structure import DIMS, HEADS, Sizes, StructureMasks
from ofa.run_files import read_json


def in_numbers(masks: StructureMasks) -> dict[str, float]:
    """Units that live: heads and intermediate dimensions of each layer, hidden dimensions where they are pruned."""
    heads, dims = (masks.head > 0).sum(dim=1).tolist(), (masks.intermediate > 0).sum(dim=1).tolist()
    found: dict[str, float] = {f"{HEADS}{layer}": count for layer, count in enumerate(heads, 1)}
    found |= {f"{DIMS}{layer}": count for layer, count in enumerate(dims, 1)}
    return found if masks.hidden is None else found | {"hidden": int((masks.hidden > 0).sum())}


def write_structure(path: Path, masks: StructureMasks) -> None:
    """Write which units live, atomically."""
    kept: dict[str, Any] = {
        "heads": [row.nonzero().flatten().tolist() for row in masks.head],
        "intermediate": [row.nonzero().flatten().tolist() for row in masks.intermediate],
        "hidden": None if masks.hidden is None else masks.hidden.nonzero().flatten().tolist(),
        "of": {"heads": masks.head.shape[1], "intermediate": masks.intermediate.shape[1]},
    }
    write_text(path, json.dumps(kept) + "\n")


def read_structure(path: Path, sizes: Sizes) -> StructureMasks:
    """The masks again.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    kept = read_json(path)
    head, intermediate = torch.zeros(sizes.layers, sizes.heads), torch.zeros(sizes.layers, sizes.intermediate)
    for rows, mask in ((kept["heads"], head), (kept["intermediate"], intermediate)):
        for layer, units in enumerate(rows):
            mask[layer, units] = 1.0
    hidden = None
    if kept["hidden"] is not None:
        hidden = torch.zeros(sizes.hidden)
        hidden[kept["hidden"]] = 1.0
    ones = torch.ones(sizes.layers)
    return StructureMasks(head, intermediate, ones, ones, hidden).canonical()


def in_words(masks: StructureMasks, numbers: Mapping[str, float]) -> str:
    """For a line of the log."""
    heads, dims = (int(mask.sum()) for mask in (masks.head > 0, masks.intermediate > 0))
    dead = int((masks.attention == 0).sum()), int((masks.ffn == 0).sum())
    differs = abs(numbers["cost_sparsity"] - numbers["structural_sparsity"]) > 1e-9
    cost = f", {numbers['cost_sparsity']:.2%} of the cost" if differs else ""
    return (
        f"{numbers['structural_sparsity']:.2%} of the weights pruned{cost}; {heads} of {masks.head.numel()} heads and "
        f"{dims} of {masks.intermediate.numel()} intermediate dimensions are left; of {len(masks.attention)} layers "
        f"{dead[0]} have lost their attention and {dead[1]} their feed-forward network"
    )
