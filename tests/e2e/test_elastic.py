"""One run continued on other numbers of ranks and at other ZeRO stages, without anyone converting anything by hand."""

import json
import os
import shutil
import signal
import time

import pytest

from ofa.export.masks_file import read_masks
from tests import processes
from tests.commands import flip
from tests.run_files import metrics

CUT = (6, 12, 18)
"""Steps at which the run is cut: inside the ramp, on a refresh at its end, at the last refresh."""


def cut(folder, step):
    """Leave a run as a kill after its checkpoint of `step` does."""
    for path in (folder / "checkpoints").glob("step-*"):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)
    (folder / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    for made_later in ("result.json", "report.html"):
        (folder / made_later).unlink()
    shutil.rmtree(folder / "model")


def check_metrics(folder, alone):
    """The lines of another division: the same steps and schedules, losses to 1e-5."""
    whole, changed = metrics(alone), metrics(folder)
    assert [line["step"] for line in changed] == [line["step"] for line in whole]
    for one, other in zip(whole, changed, strict=True):
        for key in one.keys() & {"loss", "validation_loss", "lr", "target_sparsity"}:
            assert other[key] == pytest.approx(one[key], rel=1e-5), (one["step"], key)


@pytest.fixture(scope="module")
def alone(project):
    """The same recipe on one rank from start to end; dropout is drawn alike, since micro-batches are of one size."""
    teacher = json.loads((project / "teacher.json").read_text())
    teacher["batch"]["micro_size"] = 2
    teacher["optimizer"]["eps"] = 1e-4  # or Adam divides rounding errors by rounding errors
    sparse = {**json.loads((project / "sparse.json").read_text()), "base": "smooth_teacher.json"}
    sparse["model"] = sparse["teacher"] = {"init": "runs/smooth_teacher/model"}
    sparse["checkpoint"] = {"every": 6, "keep_last": 9}
    for name, values in (("smooth_teacher", teacher), ("smooth", sparse)):
        (project / f"{name}.json").write_text(json.dumps(values))
        processes.script("pretrain.py", "--config", f"{name}.json", cwd=project)
    return project / "runs" / "smooth"


CHAINS = {
    "2 ranks, then 1": [(2, 1), (1, 1)],
    "2, 1, 4, 2 ranks at ZeRO 1": [(2, 1), (1, 1), (4, 1), (2, 1)],
    "2, 1, 4, 2 ranks at ZeRO 2": [(2, 2), (1, 2), (4, 2), (2, 2)],
    "2, 1, 4, 2 ranks at ZeRO 3": [(2, 3), (1, 3), (4, 3), (2, 3)],
    "2, 1, 4, 2 ranks at changing stages": [(2, 1), (1, 3), (4, 2), (2, 3)],
}


QUICK, *SLOW = CHAINS


@pytest.mark.parametrize("chain", [QUICK, *(pytest.param(chain, marks=pytest.mark.slow) for chain in SLOW)])
def test_a_run_changes_its_ranks_and_stage_as_it_goes(project, alone, chain):
    """OFA-30: losses to 1e-5, masks with the same counts and in the same places; nothing is done twice or left out."""
    folder = project / "elastic" / chain.replace(" ", "-").replace(",", "")
    said = ""
    *cuts, last = CHAINS[chain]
    for (ranks, stage), step in [*zip(cuts, CUT, strict=False), (last, None)]:
        done = processes.script(
            *("pretrain.py", "--config", "smooth.json", "--run-dir", str(folder)),
            *("--set", f"engine.zero_stage={stage}"),
            cwd=project,
            ranks=ranks,
        )
        said += done.stderr
        if step is not None:
            cut(folder, step)
    assert said.count("converting it") == len(CHAINS[chain]) - 1
    assert not (folder / "checkpoints" / "universal").exists(), "a state that has been passed stays on the disk"
    check_metrics(folder, alone)
    theirs = read_masks(folder / "model" / "masks.safetensors")
    for name, keep in read_masks(alone / "model" / "masks.safetensors").items():
        assert theirs[name].sum() == keep.sum()
        assert (theirs[name] == keep).float().mean() >= 0.999, name


def started_until(project, folder, reached):
    """Start one rank on a run and kill it as soon as `reached()`."""
    arguments = ("--config", "smooth.json", "--run-dir", str(folder))
    process = processes.start_script("pretrain.py", *arguments, cwd=project, output=project / "converted.out")
    while not reached():
        assert process.poll() is None, (project / "converted.out").read_text()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_conversion_that_is_killed_is_made_again_and_one_that_is_whole_is_used_again(project, alone):
    """OFA-29: killed while DeepSpeed converts; killed before the first save; the converted state damaged on disk."""
    folder = project / "elastic" / "converted"
    run = ("pretrain.py", "--config", "smooth.json", "--run-dir", str(folder))
    processes.script(*run, cwd=project, ranks=2)
    cut(folder, CUT[0])
    universal = folder / "checkpoints" / "universal"
    state = universal / f"step-{CUT[0]:08d}"
    started_until(project, folder, lambda: list(universal.glob(".writing-*/zero")))
    assert not state.exists() and (folder / "checkpoints" / "latest").read_text() == f"step-{CUT[0]:08d}\n"
    started_until(project, folder, lambda: "continuing from" in (project / "converted.out").read_text())
    made = (state / "checkpoint.json").stat().st_mtime_ns
    (project / "converted.out").unlink()
    started_until(project, folder, lambda: "continuing from" in (project / "converted.out").read_text())
    assert (state / "checkpoint.json").stat().st_mtime_ns == made, "converted again without need"
    flip(state / "zero" / "optimizer_state.pt", -200)
    processes.script(*run, cwd=project)
    assert not universal.exists()
    check_metrics(folder, alone)
