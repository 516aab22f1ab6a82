"""A small dense model trained by the real command, for runs that start from it."""

import shutil

import pytest

from tests import processes
from tests.projects import with_teacher

TINY = {
    "data": {"path": "data", "sequence_length": 64, "shuffle_window": 2},
    "model": {
        "architecture": {
            "model_type": "bert",
            "vocab_size": 200,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        }
    },
    "batch": {"global_size": 8, "micro_size": 4},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": 24, "warmup_steps": 2},
    "engine": {"threads": 1},
    "log": {"every": 1},
    "checkpoint": {"every": 5, "keep_last": 2},
    "evaluate": {"every": 10},
}
"""Dropout stays at the architecture's 0.1, so that its randomness has to be resumed too."""

SPARSE = {
    "base": "teacher.json",
    "model": {"init": "runs/teacher/model"},
    "teacher": {"init": "runs/teacher/model"},
    "schedule": {"rewind": {"start": 0, "end": 12, "frequency": 3}},
    "pruning": {"sparsity": 0.9, "ramp_end": 12, "end": 18, "frequency": 3},
}

ON_TWO = ("--config", "sparse.json", "--set", "batch.micro_size=4", "--set", "log.every=1000")
"""No metrics line falls between the steps that matter, so nothing but the agreement tells ranks of each other."""

HARD = {"base": "sparse.json", "pruning": {"regrow": False}, "engine": {"precision": "bf16"}}


def group_of_two(project, *arguments):
    """The sparse run on two ranks, without a launcher."""
    program = processes.CHECKOUT / "launch" / "pretrain.py"
    return processes.Group(program, *ON_TWO, *arguments, number=2, cwd=project)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A folder with data, configs and a trained teacher."""
    return with_teacher(tmp_path_factory.mktemp("project"), cold=True, teacher=TINY, sparse=SPARSE, hard=HARD)


@pytest.fixture(scope="session")
def undisturbed(project):
    """Run folders of the sparse configs, each left alone from start to end."""
    for name in ("sparse", "hard"):
        processes.script("pretrain.py", "--config", f"{name}.json", cwd=project)
    return {name: project / "runs" / name for name in ("sparse", "hard")}


@pytest.fixture(scope="session")
def two_undisturbed(project):
    """Run folder of the sparse config on two ranks, left alone from start to end."""
    with group_of_two(project, "--run-dir", "two/undisturbed") as group:
        assert group.statuses() == [0, 0], group.said()
    return project / "two" / "undisturbed"


@pytest.fixture
def damaged(project):
    """A copy of the data to be damaged, beside the good one; gone afterwards."""
    folder = project / "damaged"
    shutil.copytree(project / "data", folder)
    yield folder
    shutil.rmtree(folder)
