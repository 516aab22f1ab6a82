"""DeepSpeed's checkpoint files read without an engine: fp32 masters put together from the ranks' pieces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa.engine import process  # noqa: F401  (unpickling imports DeepSpeed, which reads the environment set there)


def read_checkpoint(path: Path, *, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """fp32 masters and client state of a checkpoint folder, without an engine, for any ZeRO stage and rank count.

    DeepSpeed's own `zero_to_fp32` does not read the files of its bf16 optimizer with fp32 accumulation.

    Args:
        path: a step-* folder.
        prefix: what the names of wanted parameters begin with; it is cut off.

    Raises:
        ValueError: the folder holds none.
    """
    models = sorted(path.glob("*_model_states.pt"))
    if not models:
        raise ValueError(f"no checkpoint of DeepSpeed in {path}, as this machine sees it")
    saved = _load(models[0])
    optimizers = [_load(file)["optimizer_state_dict"] for file in sorted(path.glob("*_optim_states.pt"), key=_rank)]
    if any("fp32_flat_groups" in optimizer for optimizer in optimizers):
        state = _partitioned_weights(optimizers, saved["param_shapes"])
    else:
        state = {**saved["module"], **_partitioned_masters(optimizers, saved["module"])}
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}, saved


def _partitioned_masters(optimizers: list[dict[str, Any]], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ZeRO 1 and 2: each rank's flat partition of every group, and where in it a parameter's piece lies; ZeRO 0 has
    none."""
    pieces: dict[str, list[Tensor]] = {}
    for saved in optimizers:
        for partition, slices in zip(
            saved["single_partition_of_fp32_groups"], saved["param_slice_mappings"], strict=True
        ):
            for name, address in slices.items():
                pieces.setdefault(name, []).append(partition.narrow(0, address.start, address.numel))
    return {name: torch.cat(parts).view(live[name].shape) for name, parts in pieces.items()}


def _partitioned_weights(optimizers: list[dict[str, Any]], shapes: list[Mapping[str, torch.Size]]) -> dict[str, Tensor]:
    """ZeRO 3: every rank holds an equal share of each parameter, in the order of the groups; the last is padded."""
    masters = {}
    for group, of_group in enumerate(shapes):
        offset = 0
        for name, shape in of_group.items():
            share = -(-shape.numel() // len(optimizers))
            pieces = [saved["fp32_flat_groups"][group].narrow(0, offset, share) for saved in optimizers]
            masters[name] = torch.cat(pieces)[: shape.numel()].view(shape)
            offset += share
    return masters


def _load(file: Path) -> dict[str, Any]:
    # Mapped: moments, and what other ranks hold, are never read.
    return torch.load(file, map_location="cpu", weights_only=False, mmap=True)


def _rank(file: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", file.name)
    assert found, f"not an optimizer file of DeepSpeed: {file.name}"
    return int(found[1])
