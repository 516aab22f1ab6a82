"""Sweeps of real runs: killed, stopped and started again, with a run that fails, side by side, and as jobs."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ofa.run_folder import RunFolder
from tests import processes
from tests.commands import command, refused
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY
from tests.e2e.test_resume import at_step, kill_when

CELLS = [
    {"name": "dense"},
    {"name": "bad", "set": {"data.path": "nowhere"}},
    {"name": "next", "set": {"model.init": "{dense}/model", "optimizer.lr": 1e-4}},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data and a recipe of three steps."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_corpus(folder / "data", rows=40)
    quick = {"schedule": {"total_steps": 3}, "engine": {}, "log": {"every": 1, "tensorboard": False}}
    (folder / "quick.json").write_text(json.dumps({**TINY, **quick}))
    return folder


def write_sweep(project, name, **values):
    """A sweep's config over the recipe."""
    sweep = {"script": "pretrain", "config": "quick.json", **values}
    (project / f"{name}.json").write_text(json.dumps(sweep))


def times(folder):
    """When each file of a run was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_in_the_middle_it_skips_what_is_done_and_does_the_rest_and_a_failed_run_stops_nothing(project):
    """Two workers, a run that needs another one's model, one that fails; then a table with its dash."""
    write_sweep(project, "chain", cells=CELLS, grid={"seed": [1]})
    folder = project / "runs" / "chain"
    names = ("dense-seed=1", "bad-seed=1", "next-seed=1")
    dense, bad, after = (folder / name for name in names)
    arguments = ("--config", "chain.json", "--workers", "2")
    process = processes.start_script("sweep.py", *arguments, cwd=project, output=project / "chain.out")
    kill_when(process, (after / "output.txt").exists)
    assert (dense / "result.json").is_file() and not (after / "result.json").exists()
    before = times(dense)

    done = processes.script("sweep.py", *arguments, cwd=project, check=False)
    assert done.returncode == 1, done.stderr
    assert "dense-seed=1: already done" in done.stdout and times(dense) == before
    why = "bad-seed=1 failed: status 1: nowhere"
    assert why.replace(" ", ": ", 1) in done.stdout and not (bad / "result.json").exists()
    whole, *cells = json.loads(command("status.py", "runs/chain", "--json", cwd=project).out)
    assert (whole["state"], whole["step"], whole["total"]) == ("failed", 2, 3)
    assert {Path(cell["run"]).name: cell["state"] for cell in cells} == dict(
        zip(names, ("finished", "failed", "finished"), strict=True)
    )
    assert whole["error"].startswith("bad-seed=1: nowhere")
    assert json.loads((after / "config.json").read_text())["config"]["model"]["init"] == "runs/chain/dense-seed=1/model"

    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert json.loads((after / "config.json").read_text())["config"]["engine"]["threads"] == threads
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    losses = {row["cell"]: row["metrics"]["validation_loss"] for row in rows}
    assert losses == {
        name: json.loads((folder / name / "result.json").read_text())["rows"][-1]["validation_loss"]
        for name in ("dense-seed=1", "next-seed=1")
    }
    table = (folder / "table.md").read_text()
    assert f"| next | 1 | {losses['next-seed=1']:.4f} |" in table and "| bad | 0 of 1 | - |" in table
    assert f"- {why}" in table
    assert "validation_loss" in done.stdout and (folder / "sweep.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_signal_saves_the_running_cell_and_the_next_start_continues_it(project):
    """Status 75 both times: asked, and after the time that each run is given."""
    long = {"schedule.total_steps": 100_000, "checkpoint.every": 50_000, "log.every": 20}
    write_sweep(project, "long", set=long, grid={"seed": [1, 2]})
    folder = project / "runs" / "long"
    first, second = folder / "seed=1", folder / "seed=2"
    process = processes.start_script("sweep.py", "--config", "long.json", cwd=project, output=project / "long.out")
    while not at_step(first, 40)():
        assert process.poll() is None, (project / "long.out").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, (project / "long.out").read_text()
    assert "SIGTERM: waiting for 1 cells to save" in (project / "long.out").read_text()
    saved = int((first / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert 40 < saved < 50_000 and not second.exists()
    assert (folder / "table.md").read_text().count("is not finished: start the sweep again") == 2

    arguments = ("--config", "long.json", "--only", "seed=1", "--limit", "1")
    done = processes.script("sweep.py", *arguments, cwd=project, check=False)
    assert done.returncode == 75, done.stdout + done.stderr
    assert "seed=1: started again" in done.stdout
    assert int((first / "checkpoints" / "latest").read_text().removeprefix("step-")) > saved
    assert "continuing from" in (first / "output.txt").read_text() and not second.exists()


def test_a_dry_run_prints_the_commands_and_leaves_no_trace(project):
    write_sweep(project, "dry", cells=CELLS, grid={"optimizer.lr": [1e-4], "seed": [1]})
    refused(project, "--config", "dry.json", script_name="sweep.py", words=["cell next sets optimizer.lr"])
    write_sweep(project, "dry", cells=CELLS[:2], grid={"optimizer.lr": [1e-4], "seed": [1]})
    before = sorted(project.rglob("*"))
    arguments = ("--config", "dry.json", "--dry-run", "--set", "grid.seed=[5,6]")
    answer = command("sweep.py", *arguments, cwd=project)
    assert answer.status == 0 and answer.err == "", answer
    assert len(answer.out.splitlines()) == 2 + 4 + 1 and "bad-lr=0.0001-seed=6  " in answer.out
    assert "launch/pretrain.py --config" not in answer.out, "only what differs"
    answer = command("sweep.py", *arguments, "-v", cwd=project)
    assert answer.status == 0 and answer.err == "", answer
    lines = answer.out.splitlines()
    assert len(lines) == 4 and all("pretrain.py --config quick.json --set" in line for line in lines)
    assert lines[3].endswith("optimizer.lr=0.0001 --set seed=6 --run-dir runs/dry/bad-lr=0.0001-seed=6")
    assert sorted(project.rglob("*")) == before


def test_a_dry_run_shows_all_runs_and_what_another_sweep_has_to_make_first(project):
    grid = {"model.init": [None, "runs/another/model"], "teacher.init": ["runs/tiny/teacher/model"]}
    write_sweep(project, "early", set={"objective.kd_weight": 0.5}, grid=grid)
    answer = command("sweep.py", "--config", "early.json", "--dry-run", cwd=project)
    assert answer.status == 0 and answer.out.startswith("2 runs"), answer
    head, *missing = [line for line in answer.out.splitlines() if line.startswith("# ")]
    assert "refused when the sweep is started" in head and len(missing) == 2
    assert "teacher.init" in missing[0] and "--config tiny/teacher.json (needed by all)" in missing[0]
    assert "model.init" in missing[1] and "--run-dir runs/another" in missing[1] and "all" not in missing[1]
    refused(project, "--config", "early.json", script_name="sweep.py", words=["cell ", "teacher.init: model folder"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "tiny/sweep.json"], ["cell sparsity=0.8-seed=1: model.init: model folder runs", "make it with"]),
        (["--config", "quick.json"], ["pre-trains a model: use it with launch/pretrain.py"]),
        (["--config", "tiny/sweep.json", "--set", "cels=[]"], ["unknown key cels; did you mean cells?"]),
        (["--config", "tiny/sweep.json", "--set", "grid.optimizer={}"], ["grid.optimizer", "list"]),
        (
            ["--config", "tiny/sweep.json", "--set", "set.log.evry=3"],
            ["error: tiny/sweep.json: cell sparsity=0.8-seed=1", "unknown key log.evry"],
        ),
        (["--config", "tiny/sweep.json", "--set", 'over=["sed"]'], ["tiny/sweep.json: over: sed is no grid key"]),
        (["--config", "tiny/sweep.json", "--only", "x"], ["no cell is called so"]),
        (["--config", "tiny/sweep.json", "--set", "slurm.cluster=lokal"], ["slurm.cluster", "lokal"]),
        (["--config", "tiny/sweep.json", "--set", 'slurm={"gpus":1}'], ["slurm.gpus; did you mean gpus_per_node?"]),
        (["--config", "tiny/sweep.json", "--set", 'slurm={"timeout_min":1}'], ["did you mean minutes?"]),
        (
            ["--config", "tiny/sweep.json", "--set", 'slurm={"gpus_per_node":1,"tasks_per_node":2}'],
            ["slurm", "each GPU has one process"],
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_line_and_leaves_no_trace(project, arguments, words):
    refused(project, *arguments, script_name="sweep.py", words=words)


def test_a_second_sweep_in_the_same_folder_is_refused(project):
    write_sweep(project, "twice", cells=CELLS[:1])
    folder = RunFolder(project / "runs" / "twice")
    folder.acquire()
    words = ["runs/twice is in use by", f"pid {os.getpid()}"]
    refused(project, "--config", "twice.json", script_name="sweep.py", words=words)
    folder.release()


@pytest.mark.slow
def test_jobs_of_submitit_run_the_cells_also_on_two_ranks_and_a_signal_saves_them(project):
    """The `local` cluster: real jobs, without Slurm."""
    local = {"cluster": "local", "minutes": 10, "tasks_per_node": 2}
    write_sweep(project, "jobs_two", slurm=local, cells=CELLS[:2])
    done = processes.script("sweep.py", "--config", "jobs_two.json", "--slurm", cwd=project, check=False)
    folder = project / "runs" / "jobs_two"
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads((folder / "dense" / "config.json").read_text())["world_size"] == 2
    assert "bad: failed: status 1: nowhere" in done.stdout

    write_sweep(project, "jobs_long", slurm={**local, "tasks_per_node": 1}, set={"schedule.total_steps": 100_000})
    values = json.loads((project / "jobs_long.json").read_text())
    (project / "jobs_long.json").write_text(json.dumps({**values, "cells": [{"name": "a"}]}))
    arguments = ("--config", "jobs_long.json", "--slurm")
    process = processes.start_script("sweep.py", *arguments, cwd=project, output=project / "jobs.out")
    cell = project / "runs" / "jobs_long" / "a"
    while not at_step(cell, 5)():
        assert process.poll() is None, (project / "jobs.out").read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75, (project / "jobs.out").read_text()
    assert (cell / "checkpoints" / "latest").is_file() and not (cell / "stop").exists()
