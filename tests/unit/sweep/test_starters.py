"""Cells as processes with their share of the machine, and as jobs that are taken back and queued again."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit

from ofa.config import CHECKOUT
from ofa.sweep.cells import check
from ofa.sweep.jobs import Job
from ofa.sweep.local import LocalStarter


def held(run):
    """The run, whose process stands still until it is let go: the kernel shows an environment from a moment after the
    start until the end."""
    until = time.monotonic() + 10
    while not environment_of(run) and time.monotonic() < until:
        pass
    os.kill(run._process.pid, signal.SIGSTOP)
    return run


def let_go(*runs):
    """Let them end, which without data they do at once."""
    for run in runs:
        os.kill(run._process.pid, signal.SIGCONT)
    while any(run.poll() is None for run in runs):
        time.sleep(0.05)


def environment_of(run):
    """What a process was started with."""
    text = Path(f"/proc/{run._process.pid}/environ").read_text()
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


def command_of(run):
    """The same of its command line."""
    return Path(f"/proc/{run._process.pid}/cmdline").read_text().split("\0")


def test_cells_side_by_side_have_their_own_threads_and_gpu(planned, monkeypatch, tmp_path):
    """A place that is free again, with its GPU, goes to the next cell."""
    monkeypatch.chdir(tmp_path)  # no data here: the runs end at once
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    cells = planned(grid={"seed": [1, 2, 3]})
    configs = check(list(cells.values()))
    starter, runs = LocalStarter(2), {}
    for name, running in (("seed=1", []), ("seed=2", ["seed=1"]), ("seed=3", ["seed=2"])):
        runs[name] = held(starter.start(cells[name], configs[name], [], running))
    assert [environment_of(run)["CUDA_VISIBLE_DEVICES"] for run in runs.values()] == ["3", "5", "3"]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for run in runs.values():
        assert environment_of(run)["OMP_NUM_THREADS"] == threads
        assert f"engine.threads={threads}" in command_of(run)
    let_go(*runs.values())
    assert [run.poll() for run in runs.values()] == [1, 1, 1]


def test_a_cell_alone_and_one_that_says_its_threads_are_left_as_they_are(planned, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cells = planned(set={"engine.threads": 3}, grid={"seed": [1]})
    (cell,), configs = cells.values(), check(list(cells.values()))
    alone = held(LocalStarter(1).start(cell, configs[cell.name], [], []))
    beside = held(LocalStarter(2).start(cell, configs[cell.name], [], []))
    assert environment_of(alone)["OMP_NUM_THREADS"] == "7"
    assert [part for part in command_of(beside) if part.startswith("engine.threads")] == ["engine.threads=3"]
    let_go(alone, beside)


SAVES = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1])
if saved.exists():
    print("continued", flush=True)
    sys.exit(0)
def save(*_):
    time.sleep(0.3)
    saved.touch()
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_job_that_is_taken_back_lets_its_run_save_and_continues_it(monkeypatch, tmp_path):
    """Preemption as submitit sends it; its `local` cluster queues the job again as Slurm does."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=60)
    saved, output = tmp_path / "saved", tmp_path / "output.txt"
    job = executor.submit(Job([sys.executable, "-c", SAVES, str(saved)], output))
    began = time.monotonic()
    while not (output.exists() and "ready" in output.read_text()):
        assert time.monotonic() - began < 60 and not job.done(), job.stderr()
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    assert job.result() == 0
    assert saved.exists() and output.read_text().split() == ["ready", "continued"]
