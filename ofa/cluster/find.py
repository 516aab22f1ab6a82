"""Which folders below a place are runs, sweeps, or of jobs without a run folder, from what lies in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.cluster.attempts import ATTEMPTS_FILE, BESIDE_LOG
from ofa.cluster.jobs_file import JOBS_FILE
from ofa.run_files import RunFolderError, read_json

SIGNS = frozenset({"lock", "metrics.jsonl", "output.txt", ATTEMPTS_FILE, JOBS_FILE})
"""Files of which a run folder has at least one, however early its run ended."""

INNER = frozenset({"checkpoints", "model", "tensorboard", "samples", "predictions", "onnx", "openvino", "jobs", "code"})
"""Folders of a run, in which there are no others."""

JOBS_FOLDER = ".jobs"
"""Of the logs of all jobs, where `launch/submit.py` is not told another one."""

OF_A_JOB = re.compile(rf"(\d+)(?:_(\d+))?{BESIDE_LOG}")
"""Its number, and that of the task of an array."""

DEEPEST = 6
"""Folders below one that is looked through; links may lead round in a circle."""


@dataclass(frozen=True)
class Place:
    """A folder that holds a run or a sweep, or belongs to a job that has no run folder."""

    path: Path
    record: dict[str, Any] | None
    """Its config.json; None: there is none yet."""

    damage: str | None = None
    """What is wrong with that."""

    @property
    def has_begun(self) -> bool:
        """Whether a run or sweep has written its config.json here."""
        return self.record is not None or self.damage is not None

    @property
    def is_job(self) -> bool:
        """Whether it holds the attempts of a job that has no run folder."""
        return OF_A_JOB.fullmatch(self.path.name) is not None

    @property
    def is_sweep(self) -> bool:
        """Whether its runs lie in folders below."""
        asked = (self.record or {}).get("config")
        return isinstance(asked, dict) and "script" in asked

    @property
    def planned(self) -> int | None:
        """Runs that a sweep is to have; None: its record, an older one, does not say."""
        cells = (self.record or {}).get("cells")
        return len(cells) if isinstance(cells, list) else None


def look_at(folder: Path) -> Place | None:
    """What a folder holds; None: none of these."""
    record, damage = None, None
    try:
        record = read_json(folder / "config.json")
    except RunFolderError as error:
        damage = str(error) if (folder / "config.json").exists() else None
    place = Place(folder, record, damage)
    is_run = record is not None and {"config", "data_fingerprint"} <= record.keys()
    if is_run or place.is_sweep:
        return place
    if not any((folder / name).exists() for name in SIGNS):
        return None
    return Place(folder, None, damage)


def runs_below(folder: Path, *, depth: int = DEEPEST) -> Iterator[Place]:
    """Runs and sweeps in a folder and below it, by name, the runs of a sweep behind it; then jobs, by number."""
    try:
        place = look_at(folder)
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # removed since, or of somebody else
        return
    if place is not None:
        yield place
    of_jobs = [name for name in inside if OF_A_JOB.fullmatch(name)]
    for name in inside:
        if depth and name not in (*INNER, *of_jobs) and not name.startswith("."):
            yield from runs_below(folder / name, depth=depth - 1)
    for name in sorted(of_jobs, key=_number):
        yield Place(folder / name, None)
    if JOBS_FOLDER in inside:
        yield from (place for place in runs_below(folder / JOBS_FOLDER, depth=0) if place.is_job)


def _number(name: str) -> tuple[int, int]:
    found = OF_A_JOB.fullmatch(name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)
