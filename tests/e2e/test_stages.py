"""The whole job at ZeRO 2 and 3 on two real ranks: trained, cut short at a refresh step, continued, exported."""

import json
import shutil

import pytest

from tests import processes
from tests.run_files import metrics, model_bytes

pytestmark = pytest.mark.slow

CASES = {
    "2": {"engine": {"zero_stage": 2, "precision": "bf16"}, "pruning": {"regrow": True}},
    "3": {"engine": {"zero_stage": 3, "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}}},
}


@pytest.fixture(scope="module", params=CASES)
def run(request, project):
    """A finished run folder on two ranks, with all its checkpoints."""
    name = f"stage_{request.param}"
    config = {"base": "sparse.json", "checkpoint": {"every": 4, "keep_last": 9}, **CASES[request.param]}
    (project / f"{name}.json").write_text(json.dumps(config))
    processes.script("pretrain.py", "--config", f"{name}.json", cwd=project, ranks=2)
    return project / "runs" / name


@pytest.mark.parametrize("step", [8, 12])
def test_it_continues_to_the_same_bytes(project, run, step):
    """OFA-23, OFA-29: step 12 is on the refresh grid, so the state was saved before its masks were chosen; step 8 is
    not, and under ZeRO 3 the loaded live weights are dense until they are masked again."""
    again = project / "again" / f"{run.name}-{step}"
    shutil.copytree(run, again)
    for made_later in ("result.json", "report.html"):
        (again / made_later).unlink()
    shutil.rmtree(again / "model")
    for later in range(step + 4, 25, 4):
        shutil.rmtree(again / "checkpoints" / f"step-{later:08d}")
    (again / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    done = processes.script(
        "pretrain.py", "--config", f"{run.name}.json", "--run-dir", str(again), cwd=project, ranks=2
    )
    assert "continuing from" in done.stdout + done.stderr
    assert model_bytes(again) == model_bytes(run)
    assert metrics(again) == metrics(run)


def test_its_checkpoint_exports_what_the_run_exported(project, run):
    """OFA-22: masters put together from the files of two ranks."""
    processes.script("export.py", f"runs/{run.name}", "--output", f"exported/{run.name}", cwd=project)
    exported = {p.name: p.read_bytes() for p in sorted((project / "exported" / run.name).iterdir())}
    assert exported == model_bytes(run)


def test_it_is_exactly_as_sparse_as_asked(project, run):
    """OFA-21, OFA-22"""
    done = processes.script("verify.py", f"runs/{run.name}", "--expect-sparsity", "0.9", cwd=project)
    assert "is what it says it is" in done.stdout
    assert any(line.get("revived") for line in metrics(run)), "nothing came back: the dense masters were not there"
