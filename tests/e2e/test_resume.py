"""Runs that are killed and started again end as if they had been left alone."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests import processes
from tests.run_files import metrics, model_bytes


def kill_when(process, reached, deadline=120.0):
    """SIGKILL a process group as soon as `reached()`; fails if the run ends before."""
    began = time.monotonic()
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() - began < deadline, "the run did not get there"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def at_step(folder, step):
    """A question: have the metrics reached a step?"""
    path = folder / "metrics.jsonl"
    return lambda: path.exists() and any(f'"step": {step},' in line for line in path.read_text().splitlines())


def while_saving(folder, step):
    """A question: is the checkpoint of a step being written?"""
    return lambda: (folder / "checkpoints" / f".writing-step-{step:08d}").is_dir()


@pytest.mark.parametrize("mode", ["sparse", pytest.param("hard", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(project, undisturbed, mode):
    """OFA-29: killed in the ramp between checkpoints, while one is written on a refresh step, and after the ramp;
    `sparse` is fp32 with weights that may return, `hard` is bf16 with weights that may not."""
    folder = project / "disturbed" / mode
    arguments = ("--config", f"{mode}.json", "--run-dir", str(folder), "--set", "checkpoint.every=3")
    moments = [at_step(folder, 7), while_saving(folder, 12), at_step(folder, 20)]
    for reached in moments:
        process = processes.start_script("pretrain.py", *arguments, cwd=project, output=project / f"{mode}.out")
        kill_when(process, reached)
    processes.script("pretrain.py", *arguments, cwd=project)
    assert (project / f"{mode}.out").read_text().count("continuing from") == 2
    assert model_bytes(folder) == model_bytes(undisturbed[mode])
    assert metrics(folder) == metrics(undisturbed[mode])


@pytest.mark.slow
def test_the_checkpoint_of_a_refresh_step_continues_with_its_moments_zeroed(project, undisturbed):
    """OFA-29: hard mode, from the state before the refresh at step 15; moments come from the file, not from a step."""
    process = processes.script(
        *("pretrain.py", "--config", "hard.json", "--run-dir", "disturbed/refresh", "--set", "checkpoint.every=15"),
        cwd=project,
    )
    folder = project / "disturbed" / "refresh"
    (folder / "result.json").unlink()
    (folder / "report.html").write_text("made while the run went on")
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000024")
    (folder / "checkpoints" / "latest").write_text("step-00000015\n")
    process = processes.script(
        *("pretrain.py", "--config", "hard.json", "--run-dir", "disturbed/refresh", "--set", "checkpoint.every=15"),
        cwd=project,
    )
    assert "step-00000015" in process.stderr
    assert "sparse student" in (folder / "report.html").read_text()
    assert model_bytes(folder) == model_bytes(undisturbed["hard"])
    assert metrics(folder) == metrics(undisturbed["hard"])


def test_a_signal_saves_and_the_next_start_continues(project, undisturbed):
    """OFA-29: SIGTERM ends the run after its step with status 75."""
    folder = project / "disturbed" / "stopped"
    arguments = ("--config", "sparse.json", "--run-dir", str(folder), "--set", "checkpoint.every=1000")
    process = processes.start_script("pretrain.py", *arguments, cwd=project, output=project / "stopped.out")
    while not at_step(folder, 4)():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    processes.script("pretrain.py", *arguments, cwd=project)
    assert model_bytes(folder) == model_bytes(undisturbed["sparse"])
    assert metrics(folder) == metrics(undisturbed["sparse"])


def test_a_finished_run_prints_its_table_and_ends(undisturbed, project):
    before = (undisturbed["sparse"] / "metrics.jsonl").read_bytes()
    done = processes.script("pretrain.py", "--config", "sparse.json", cwd=project)
    assert "sparse student" in done.stdout and "floor" in done.stdout
    for label, place in (("model", "model"), ("report", "report.html"), ("event files", "tensorboard")):
        assert f"{label}: runs/sparse/{place}" in done.stdout
    assert (undisturbed["sparse"] / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_with_the_keys_that_differ(undisturbed, project):
    arguments = ("--config", "sparse.json", "--set", "pruning.sparsity=0.8", "--set", "seed=1")
    done = processes.script("pretrain.py", *arguments, cwd=project, check=False)
    assert done.returncode == 1
    assert "pruning.sparsity (0.9 -> 0.8); seed (42 -> 1)" in done.stderr


@pytest.mark.slow
def test_another_runs_checkpoint_is_continued_only_with_its_own_config(undisturbed, project):
    """`--resume DIR`: into a fresh folder, from the middle of the other run, to the same end."""
    source = undisturbed["sparse"] / "checkpoints" / "step-00000020"
    arguments = ("--config", "sparse.json", "--run-dir", "disturbed/branch", "--resume", str(source))
    done = processes.script("pretrain.py", *arguments, "--set", "seed=1", cwd=project, check=False)
    assert done.returncode == 1 and "seed (42 -> 1)" in done.stderr
    assert not (project / "disturbed" / "branch").exists()
    processes.script("pretrain.py", *arguments, cwd=project)
    assert model_bytes(project / "disturbed" / "branch") == model_bytes(undisturbed["sparse"])


def test_never_refuses_a_folder_that_holds_a_run(undisturbed, project):
    done = processes.script("pretrain.py", "--config", "sparse.json", "--resume", "never", cwd=project, check=False)
    assert done.returncode == 1
    assert "--resume is never" in done.stderr


def test_the_event_files_hold_the_lines_of_the_metrics_file(undisturbed):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    folder = undisturbed["sparse"]
    steps = [
        event.step
        for path in sorted((folder / "tensorboard").iterdir())
        for event in EventFileLoader(str(path)).Load()
        if event.summary.value
    ]
    assert steps == [line["step"] for line in metrics(folder)]


def test_a_checkpoint_holds_weights_moments_and_one_bit_a_mask(undisturbed):
    """OFA-31, OFA-19: live weights, fp32 masters and two moments are 16 bytes a parameter; the teacher is not in it."""
    folder = undisturbed["sparse"] / "checkpoints"
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith("step-"))
    assert names == ["step-00000020", "step-00000024"], "keep_last 2"
    index = json.loads((folder / names[-1] / "checkpoint.json").read_text())
    size = sum(size for size, _ in index["files"].values())
    parameters = 200 * 32 + 64 * 32 + 2 * 32 + 64 + 2 * (4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32)
    parameters += 32 * 32 + 32 + 64 + 200
    masks = 2 * (4 * 32 * 32 + 2 * 32 * 64) / 8
    assert 16 * parameters + masks < size < 1.25 * (16 * parameters + masks) + 40_000
    assert len(index["files"]) == 2
    saved = torch.load(folder / names[-1] / "mp_rank_00_model_states.pt", weights_only=False)
    student = AutoModelForMaskedLM.from_pretrained(undisturbed["sparse"] / "model").state_dict()
    assert saved["module"].keys() == {f"model.{name}" for name in student}
    stored = set(saved["param_shapes"][0]) | set(saved["param_shapes"][1]) | set(saved["param_shapes"][2])
    assert stored <= saved["module"].keys()
    assert saved["pruner"].keys() == {"masks", "mask_hash", "hardened"}


def test_lr_sparsity_and_churn_of_every_step_stand_in_the_metrics(undisturbed, project):
    """OFA-13"""
    plan = processes.script("pretrain.py", "--config", "sparse.json", "--plan", cwd=project).stdout
    planned = [json.loads(line) for line in plan.splitlines()]
    lines = [line for line in metrics(undisturbed["sparse"]) if "lr" in line]
    assert [line["step"] for line in lines] == list(range(24))
    for line, step in zip(lines, planned, strict=False):
        assert (line["lr"], line["target_sparsity"]) == (step["lr"], step["sparsity"])
        assert (line["dropped"] > 0) <= step["refresh"]
        for key in ("loss", "masked_lm", "masked_lm_kd", "encoder_sparsity", "scope_sparsity", "model_sparsity"):
            assert key in line
    assert lines[-1]["scope_sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert sum(line["revived"] for line in lines) > 0
