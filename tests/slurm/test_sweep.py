"""A sweep whose runs are jobs of Slurm."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ofa.cluster.attempts import read_attempts
from ofa.cluster.jobs_file import noted_jobs
from tests import processes
from tests.slurm.test_submit import last_step

pytestmark = pytest.mark.slurm

SHORT = {"schedule.total_steps": 20, "schedule.rewind": None, "pruning": None}
SWEEP = [sys.executable, processes.CHECKOUT / "launch" / "sweep.py", "--slurm", "--uncommitted", "--config"]


@pytest.fixture
def write(project, submit):
    """write(name, cells, slurm, **values): a sweep's config; what it leaves in the queue is taken out of it."""

    def config(name, cells, slurm, **values):
        sweep = {"script": "pretrain", "config": "long.json", "set": SHORT, "cells": cells, "slurm": slurm, **values}
        (project / f"{name}.json").write_text(json.dumps(sweep))
        return project / "runs" / name

    return config


def begun(cluster, project, name):
    """The command, started."""
    with (project / f"{name}.out").open("ab") as out:
        own = {"cwd": project, "env": cluster.environment(), "stdout": out, "stderr": out}
        return subprocess.Popen([*map(str, SWEEP), f"{name}.json"], stdin=subprocess.DEVNULL, **own)


def wait_for(process, project, name, reached):
    """Until `reached()`, while the sweep goes on."""
    until = time.monotonic() + 300
    while not reached():
        assert process.poll() is None and time.monotonic() < until, (project / f"{name}.out").read_text()
        time.sleep(0.1)


def test_each_run_is_a_job_after_those_that_it_needs_and_a_crash_that_repeats_fails_it(cluster, project, write):
    cells = [
        {"name": "dense"},
        {"name": "bad", "set": {"data.path": "nowhere"}},
        {"name": "next", "set": {"model.init": "{dense}/model"}},
    ]
    folder = write("grid", cells, {"minutes": 30, "nodes": 2, "max_crashes": 1})
    done = cluster.call(*SWEEP, "grid.json", cwd=project, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bad: failed: status 1: nowhere" in done.stdout and "2 times in a row at step 0" in done.stdout
    attempts = {name: read_attempts(folder / name) for name in ("dense", "bad", "next")}
    assert [one.restart for one in attempts["bad"]] == [0, 1]
    for name in ("dense", "next"):
        assert [(one.ranks, one.end.status) for one in attempts[name]] == [(2, 0)]
        assert (folder / name / "result.json").is_file()
    assert attempts["next"][0].time >= attempts["dense"][0].end.time
    assert attempts["next"][0].commit == attempts["dense"][0].commit, "the code of its start, however late"
    assert len((folder / "table.md").read_text().splitlines()) > 3 and cluster.queue() == []


def test_a_killed_sweep_finds_its_job_again_and_a_stopped_one_takes_back_what_waits(cluster, project, write):
    """One run has both nodes, the other waits for them; first both are held."""
    asked = {"minutes": 30, "nodes": 2, "sbatch": ["exclusive", "hold"]}
    folder = write("stopped", [{"name": "a"}, {"name": "b"}], asked, set={"log.every": 1})
    process = begun(cluster, project, "stopped")
    wait_for(process, project, "stopped", lambda: len(cluster.queue()) == 2)
    jobs = sorted(cluster.queue(), key=int)
    process.kill()
    process.wait()

    process = begun(cluster, project, "stopped")
    said = project / "stopped.out"
    wait_for(process, project, "stopped", lambda: said.read_text().count("b: started") == 2)
    assert sorted(cluster.queue(), key=int) == jobs, "nothing is submitted twice"
    for job in jobs:
        cluster.call("scontrol", "release", job)
    wait_for(process, project, "stopped", lambda: last_step(folder / "a") >= 5)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 75, said.read_text()
    cluster.until("the end", lambda: cluster.queue() == [])
    assert [one.end.status for one in read_attempts(folder / "a")] == [75] and not (folder / "a" / "stop").exists()
    assert read_attempts(folder / "b") == [] and cluster.job(jobs[1])["JobState"] == "CANCELLED"


def test_a_sweep_killed_while_its_jobs_run_finds_them_again_and_ends_with_its_table(cluster, project, write):
    """Each has a node, and stands still until the second sweep has found it; what waits for one comes after that."""
    cells = [{"name": "a"}, {"name": "b"}, {"name": "next", "needs": ["a"]}]
    steps = {"schedule.total_steps": 100, "log.every": 1}
    folder = write("adopted", cells, {"minutes": 30, "sbatch": ["exclusive"]}, set={**SHORT, **steps})
    said, before = project / "adopted.out", submitted(cluster)
    process = begun(cluster, project, "adopted")
    stopped = []
    try:
        for name in ("a", "b"):
            wait_for(process, project, "adopted", lambda name=name: last_step(folder / name) >= 5)
            (job,) = noted_jobs(folder / name)
            stopped += cluster.ranks(job.job)
            os.kill(stopped[-1], signal.SIGSTOP)
        jobs = [noted_jobs(folder / name)[0].job for name in ("a", "b")]
        process.kill()
        process.wait()
        process = begun(cluster, project, "adopted")
        wait_for(process, project, "adopted", lambda: said.read_text().count("runs already") == 2)
        assert sorted(cluster.queue()) == sorted(jobs), "what waits is not submitted, and what runs is not again"
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert process.wait(300) == 0, said.read_text()
    assert submitted(cluster) - before == len(cells) and cluster.queue() == []
    found = {name: read_attempts(folder / name) for name in ("a", "b", "next")}
    assert [[(one.restart, one.end.status, one.end.step) for one in of] for of in found.values()] == [[(0, 0, 100)]] * 3
    assert [found[name][0].job for name in ("a", "b")] == jobs
    assert found["next"][0].time >= found["a"][0].end.time
    rows = (folder / "table.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if row.startswith("|")] == ["cell", "---", *found]
    assert said.read_text().count("\ncell ") == 1, "only the second could print it"


def submitted(cluster):
    """How many jobs were ever submitted."""
    return (cluster.folder / "slurmctld.log").read_text().count("_slurm_rpc_submit_batch_job: JobId=")


def test_what_slurm_does_not_have_is_refused_before_any_run_is_queued(cluster, project, write):
    for name, asked, words in (
        ("unknown", {"partition": "debog"}, "did you mean debug?"),
        ("many", {"gpus_per_node": 8}, "partition debug has at most 2 GPUs"),
        ("feature", {"constraint": "fast"}, "sbatch says"),
    ):
        folder = write(name, [{"name": "a"}], asked)
        done = cluster.call(*SWEEP, f"{name}.json", cwd=project, check=False)
        assert done.returncode == 1 and words in done.stderr and cluster.queue() == [], done.stderr
        assert not (folder / "a").exists()
