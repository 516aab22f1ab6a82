"""DeepSpeed's checkpoint files read without an engine: fp32 masters put together from the ranks' pieces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_checkpoint(path: Path, *, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """fp32 masters and client state of a checkpoint folder, without an engine.

    Args:
        path: a step-* folder.
        prefix: what the names of wanted parameters begin with; it is cut off.
    """
    saved = torch.load(path / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
    state = {**saved["module"], **_partitioned_masters(path, saved["module"])}
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}, saved


def _partitioned_masters(path: Path, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masters put together from the ranks' optimizer files; ZeRO 0 has none.

    DeepSpeed's own `zero_to_fp32` does not read the files of its bf16 optimizer with fp32 accumulation.
    """
    pieces: dict[str, list[Tensor]] = {}
    for file in sorted(path.glob("*_optim_states.pt"), key=_rank_of_file):
        saved = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]
        partitions = saved["single_partition_of_fp32_groups"]
        for partition, slices in zip(partitions, saved["param_slice_mappings"], strict=True):
            for name, address in slices.items():
                pieces.setdefault(name, []).append(partition.narrow(0, address.start, address.numel))
    return {name: torch.cat(parts).view(live[name].shape) for name, parts in pieces.items()}


def _rank_of_file(file: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", file.name)
    assert found, f"not an optimizer file of DeepSpeed: {file.name}"
    return int(found[1])
