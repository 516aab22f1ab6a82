"""What a run folder is to somebody who wants its model: what its run does, how far it came, where the model will be.

In: the folder of a run of any kind, and the config that it has recorded. Out: words, for errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.config import MAKERS, USES, RunConfig, kind_of_values


def unfinished(folder: Path, record: Mapping[str, Any]) -> str:
    """Of a run without a model: what gives it one.

    Args:
        folder: of the run.
        record: its config.json.
    """
    what = _what(record)
    if what is None:
        return f"{folder} is a run that has not exported its model yet: continue it, or launch/export.py it"
    steps = sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*[0-9]"))
    place = f"its newest checkpoint is of step {steps[-1]} of {record['total_steps']}" if steps else "no checkpoint"
    return (
        f"{folder} is a run that {what} and has not ended ({place}): it exports its model at its end; continue it with "
        f"{MAKERS[kind_of_values(record['config'])]}"
    )


def of_another_kind(folder: Path, record: Mapping[str, Any], *, has_model: bool) -> str | None:
    """Of a run that does not pre-train: where its model is. None: it does.

    Args:
        folder, record: as of `unfinished`.
        has_model: whether the run has exported it.
    """
    what = _what(record)
    if what is None:
        return None
    if not has_model:
        return unfinished(folder, record)
    return (
        f"{folder} is a run that {what}, and has exported its model, {folder / 'model'}, at its end: --format writes "
        "that for a runtime; without it this command takes runs that pre-train"
    )


def _what(record: Mapping[str, Any]) -> str | None:
    """What a run does; None: it pre-trains, or its record does not tell."""
    kind = kind_of_values(record["config"]) if {"config", "total_steps"} <= record.keys() else None
    return None if kind in (None, RunConfig) or kind not in MAKERS else USES[kind].partition(":")[0]
