"""A small dense model trained by the real command, for runs that start from it."""

import json
import shutil

import pytest

from tests import processes
from tests.corpora import write_corpus

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

HARD = {"base": "sparse.json", "pruning": {"regrow": False}, "engine": {"precision": "bf16"}}


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A folder with data, configs and a trained teacher."""
    folder = tmp_path_factory.mktemp("project")
    write_corpus(folder / "data", rows=120)
    for name, values in (("teacher", TINY), ("sparse", SPARSE), ("hard", HARD)):
        (folder / f"{name}.json").write_text(json.dumps(values))
    processes.script("pretrain.py", "--config", "teacher.json", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(project):
    """Run folders of the sparse configs, each left alone from start to end."""
    for name in ("sparse", "hard"):
        processes.script("pretrain.py", "--config", f"{name}.json", cwd=project)
    return {name: project / "runs" / name for name in ("sparse", "hard")}


@pytest.fixture
def damaged(project):
    """A copy of the data to be damaged, beside the good one; gone afterwards."""
    folder = project / "damaged"
    shutil.copytree(project / "data", folder)
    yield folder
    shutil.rmtree(folder)
