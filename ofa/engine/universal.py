"""DeepSpeed's universal checkpoint: the form of a state that any number of ranks can load, at ZeRO 1, 2 or 3.

DeepSpeed brings a converter and, for each stage, a loader. The converter writes one form below ZeRO 3 and another at
it, and each loader reads its own; `_complete` gives a folder what both look for, so that the stage may change too.
Writing the form ourselves was left aside: the converter knows every layout that DeepSpeed writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ofa.engine.process import deepspeed

STATES = ("fp32", "exp_avg", "exp_avg_sq")
MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
"""Rank 0's module and client state, as ZeRO 1 and 2 look for it, and as ZeRO 3 does."""

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Of a process among others; the converter is none of them."""


def convert(source: Path, building: Path) -> None:
    """Write the universal form of a checkpoint folder into another folder (one rank).

    It runs in a process of its own: DeepSpeed forks workers, which a process that holds a device or threads may not.

    Raises:
        ValueError: DeepSpeed could not, in the last words it said.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source), "--output_folder", str(building)]
    alone = {key: value for key, value in os.environ.items() if key not in PLACE} | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ValueError(f"DeepSpeed could not make {source} fit for other ranks or another stage: {last}")
    (building.parent / "latest_universal").unlink()
    _complete(building)


def _complete(folder: Path) -> None:
    """Add to a converted folder what the loader of the other stages looks for."""
    states = folder / "zero"
    step, groups = _step_and_groups(states)
    for path in states.glob("*/*.pt"):
        if path.stem in STATES:
            _name_tensor(path)
    for parameter in states.iterdir():
        if parameter.is_dir() and (parameter / "exp_avg.pt").is_file():
            torch.save(step.clone(), parameter / "step.pt")
    # Hyperparameters are our config's: ZeRO 3's loader would give those of the first group, its weight decay too, to
    # every group. It copies what it finds, and here is nothing.
    empty = [{"params": []} for _ in range(groups)]
    of_stage_3 = {"state": {0: {"step": step}}, "param_groups": empty}
    common = {"ds_version": deepspeed.__version__, "param_groups": empty, "optimizer_state_dict": of_stage_3}
    torch.save(common, states / "optimizer_state.pt")
    there = next(folder / name for name in MODEL_FILES if (folder / name).is_file())
    for path in folder.glob("*_model_states.pt"):
        if path != there:
            path.unlink()  # those of other ranks hold the same
    for name in MODEL_FILES:
        if name != there.name:
            shutil.copy2(there, folder / name)


def _step_and_groups(states: Path) -> tuple[torch.Tensor, int]:
    """How often the optimizer has stepped, and how many groups of parameters it has."""
    common: dict[str, Any] = torch.load(states / "optimizer_state.pt", map_location="cpu", weights_only=False)
    if "optimizer_state_dict" in common:
        inner = common["optimizer_state_dict"]
        return torch.as_tensor(inner["state"][0]["step"]), len(inner["param_groups"])
    step = torch.load(next(states.glob("*/step.pt")), weights_only=False)
    return torch.as_tensor(step), len(common["param_groups"])


def _name_tensor(path: Path) -> None:
    """A tensor as ZeRO 3's converter writes it, in the dictionary that the other loaders read."""
    value = torch.load(path, map_location="cpu", weights_only=False)
    if torch.is_tensor(value):
        torch.save({"param": value, "cat_dim": 0}, path)
