"""What the chaos campaign runs: a small corpus, a dense teacher, and the sparse recipe in lanes.

In: an empty folder. Out: a project in it, made by the real commands, and the command line of every start. The model is
as small as it can be, because what counts is the number of starts, and a start is mostly imports. Mask refreshes come
every four steps and checkpoints every three, so that a refresh follows a save on some steps and not on others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ofa.config import RunConfig, load
from ofa.recipe import Recipe
from tests import processes
from tests.corpora import write_corpus

ROWS = 120
"""Of the corpus: a run passes over it three times and a bit."""

GLOBAL_SIZE = 8
SPARSITY = 0.9
TEACHER_RUN = "runs/teacher"

TEACHER = {
    "data": {"path": "data", "sequence_length": 64, "shuffle_window": 2},
    "model": {
        "architecture": {
            "model_type": "bert",
            "vocab_size": 200,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 64,
        }
    },
    "batch": {"global_size": GLOBAL_SIZE, "micro_size": 2},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": 8, "warmup_steps": 2},
    "engine": {"threads": 1},
    "log": {"every": 1},
    "checkpoint": {"every": 1000},
    "evaluate": {"every": 1000},
}

SPARSE = {
    "base": "teacher.json",
    "model": {"init": f"{TEACHER_RUN}/model"},
    "teacher": {"init": f"{TEACHER_RUN}/model"},
    "schedule": {"total_steps": 48, "rewind": {"start": 0, "end": 24, "frequency": 4}},
    "pruning": {"sparsity": SPARSITY, "ramp_end": 24, "end": 36, "frequency": 4},
    "checkpoint": {"every": 3},
    "evaluate": {"every": 16},
}
"""Dropout stays at the architecture's 0.1 and weights may return, so that more has to be resumed."""


PATIENCE = "engine.patience=6"
"""Ranks come together within thirty seconds, or end: well before the campaign calls them hung."""


@dataclass(frozen=True)
class Lane:
    """A kind of run, and what every start of it may be drawn from; the undisturbed run takes the first of each."""

    name: str
    worlds: tuple[int, ...]
    stages: tuple[int, ...]
    exact: bool
    """The end must have the undisturbed run's bytes; otherwise its masks, nearly."""
    settings: tuple[str, ...] = ()


LANES = {
    lane.name: lane
    for lane in (
        Lane("one", (1,), (1,), exact=True),
        Lane("two", (2,), (1,), exact=True),
        Lane("any", (1, 2, 4), (1, 2, 3), exact=False, settings=("model.dropout=0.0",)),
    )
}
"""`any` has no dropout: whose random numbers a row gets depends on the rank that reads it."""


@dataclass(frozen=True)
class Start:
    """One start of a lane: how many ranks, at which ZeRO stage."""

    ranks: int
    stage: int


@dataclass(frozen=True)
class Times:
    """When things happen in a run."""

    total: int
    ramp_end: int
    refreshes: tuple[int, ...]


def make_project(folder: Path) -> Path:
    """Data, configs and a trained teacher in `folder`; a teacher that is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").is_dir():
        write_corpus(folder / "data", rows=ROWS)
    for name, values in (("teacher", TEACHER), ("sparse", SPARSE)):
        (folder / f"{name}.json").write_text(json.dumps(values))
    if not (folder / TEACHER_RUN / "result.json").is_file():
        processes.script("pretrain.py", "--config", "teacher.json", "--run-dir", TEACHER_RUN, cwd=folder)
    return folder


def times_of(project: Path) -> Times:
    """Those of the sparse recipe."""
    config = load(RunConfig, project / "sparse.json")
    total = config.schedule.total_steps
    recipe = Recipe(config)
    refreshes = tuple(step for step in range(total + 1) if recipe.at(step).update_mask)
    ramp_end = next(step for step in range(total + 1) if recipe.at(step).sparsity == SPARSITY)
    return Times(total, ramp_end, refreshes)


def draw_start(lane: Lane, draw: Random) -> Start:
    """How a lane is started next."""
    return Start(draw.choice(lane.worlds), draw.choice(lane.stages))


def first_start(lane: Lane) -> Start:
    """How its undisturbed run is started."""
    return Start(lane.worlds[0], lane.stages[0])


def arguments(lane: Lane, start: Start, run_dir: Path) -> list[str]:
    """The command line behind `launch/pretrain.py`."""
    settings = [*lane.settings, f"engine.zero_stage={start.stage}", "log.samples=true", PATIENCE]
    overrides = [word for setting in settings for word in ("--set", setting)]
    return ["--config", "sparse.json", "--run-dir", str(run_dir), *overrides]
