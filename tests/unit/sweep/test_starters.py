"""Cells as processes with their share of the machine, and as jobs."""

import json
import os
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ofa.cluster.attempts import read_attempts, write_end, write_start
from ofa.cluster.jobs_file import note_job, noted_jobs
from ofa.cluster.queue import QueuedJob
from ofa.cluster.verdict import CRASHED, Limits
from ofa.config import JobConfig, SweepConfig
from ofa.run_folder import RunFolder
from ofa.slurm.commands import SlurmError
from ofa.sweep.cells import check
from ofa.sweep.jobs import JobRun, JobStarter, Queue
from ofa.sweep.local import LocalStarter
from ofa.sweep.run import Sweep
from ofa.sweep.start import _job_starter


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


@pytest.fixture
def job(planned, monkeypatch, tmp_path):
    """Starts a cell as a job of submitit's `local` cluster, where there is no data; its end comes at once."""
    monkeypatch.chdir(tmp_path)

    def start(**asked):
        (cell,) = planned(set={"batch": {"global_size": 8, "micro_size": 4}}, grid={"seed": [1]}).values()
        starter = JobStarter(tmp_path / "s" / "jobs", JobConfig(cluster="local", **asked), 1)
        return cell, starter.start(cell, check([cell])[cell.name], ["--set", "log.every=7"], [])

    return start


def ended(run):
    """Its status, once it has one."""
    until = time.monotonic() + 60
    while (status := run.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return status


def test_a_cell_that_is_a_job_notes_its_attempts_and_tells_from_them_how_it_ended(job):
    cell, run = job(tasks_per_node=2)
    assert ended(run) == 1
    (attempt,) = read_attempts(cell.folder.path)
    assert (attempt.ranks, attempt.end.status, attempt.end.reason) == (2, 1, CRASHED)
    why = run.why(1)
    assert why.startswith("status 1: data") and why.removeprefix("status 1: ") in run.output.read_text()
    (noted,) = noted_jobs(cell.folder.path)
    assert (noted.job, noted.log) == (attempt.job, run.output)
    assert "log.every=7" in json.loads((cell.folder.path / "jobs.json").read_text())["jobs"][0]["command"]


def test_a_job_that_cannot_begin_is_no_secret(job, tmp_path):
    """What it is to run cannot be imported where it starts."""
    (tmp_path / "ofa").mkdir()
    (tmp_path / "ofa" / "__init__.py").write_text("raise ImportError('torn')")
    cell, run = job()
    assert ended(run) == 1
    assert run.why(1).startswith(f"job {run._job}, before it began: status 1") and "torn" in run.why(1)


def test_a_job_has_the_limits_of_restarts_that_the_config_says(planned, tmp_path):
    (cell,) = planned(grid={"seed": [1]}).values()

    def limits(**asked):
        return JobStarter(tmp_path, JobConfig(cluster="local", **asked), 1)._link(cell, ()).limits

    assert limits() == Limits()
    assert limits(max_requeues=7, max_crashes=5, max_kills=3) == Limits(requeues=7, crashes=5, kills=3)


def program(name, folder, text, monkeypatch):
    """Put a program of that name on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


squeue = partial(program, "squeue")


def starter_of(cell, tmp_path, monkeypatch):
    """One that submits to Slurm, with a job of this cell noted and its log there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.out").touch()
    note_job(cell.folder.path, "17", command="", log=tmp_path / "log.out")
    return JobStarter(tmp_path / "s" / "jobs", JobConfig(), 2, uncommitted=True)


def test_a_job_that_slurm_cannot_take_back_now_saves_once_it_runs(planned, tmp_path, monkeypatch):
    (cell,) = planned(grid={"seed": [1]}).values()
    starter = starter_of(cell, tmp_path, monkeypatch)
    squeue(tmp_path / "bin", 'echo "17|PENDING|Priority"', monkeypatch)
    program("scancel", tmp_path / "bin", "echo 'Unable to contact slurm controller' >&2; exit 1", monkeypatch)
    run = starter.start(cell, check([cell])[cell.name], [], [])
    with pytest.raises(SlurmError, match="Unable to contact"):
        run.stop(signal.SIGTERM)
    assert cell.folder.stop.exists()


def test_a_job_of_a_sweep_that_was_killed_is_looked_after_while_it_runs(planned, tmp_path, monkeypatch, capsys):
    """Its run folder is held, and it is asked to stop as one that this sweep has submitted."""
    (cell,) = planned(grid={"seed": [1]}).values()
    starter = starter_of(cell, tmp_path, monkeypatch)
    squeue(tmp_path / "bin", 'echo "17|RUNNING|None"', monkeypatch)
    job = RunFolder(cell.folder.path)
    job.acquire()

    def save_and_end():
        until = time.monotonic() + 10
        while "what it says stands in" not in capsys.readouterr().out:
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        while not job.stop.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        number = write_start(job.path, job="17", restart=0, nodes=["n1"], ranks=1, step=0, commit=None)
        write_end(job.path, number, status=75, step=3, reason="stopped and saved")
        squeue(tmp_path / "bin", "", monkeypatch)

    thread = threading.Thread(target=save_and_end)
    thread.start()
    outcome = Sweep([cell], check([cell]), starter, after=lambda _: None).run()
    thread.join()
    job.release()
    assert outcome.stopped == ["seed=1"]


def test_a_local_job_of_a_sweep_that_was_killed_is_looked_after_before_it_has_the_lock(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cell,) = planned(grid={"seed": [1]}).values()
    with subprocess.Popen(["sleep", "60"]) as left:
        job = str(left.pid)
        note_job(cell.folder.path, job, command="", log=tmp_path / "log.out", process=left.pid)
        starter = JobStarter(tmp_path / "s" / "jobs", JobConfig(cluster="local"), 1)
        run = starter.start(cell, check([cell])[cell.name], [], [])
        assert (run._job, run.output, run.poll()) == (job, tmp_path / "log.out", None)
        run.stop(signal.SIGTERM)
        assert cell.folder.stop.exists()
        number = write_start(cell.folder.path, job=job, restart=0, nodes=["n1"], ranks=1, step=0, commit=None)
        left.kill()
    write_end(cell.folder.path, number, status=75, step=3, reason="stopped and saved")
    assert run.poll() == 75


@pytest.mark.parametrize(("error", "status"), [(None, 75), ("not queued again: it was 3 times", 1)])
def test_a_job_that_was_given_up_has_failed_and_says_why(planned, tmp_path, error, status):
    """It saved and ended with 75, as one does that the sweep has stopped."""
    cell = planned(grid={"seed": [1]})["seed=1"]
    attempt = {"restart": 3, "nodes": ["n1"], "ranks": 1, "step": 4, "commit": None}
    number = write_start(cell.folder.path, job="17", **attempt)
    write_end(cell.folder.path, number, status=75, step=8, reason="signal", error=error)
    run = JobRun(cell, "17", tmp_path / "log", is_over=lambda: True, take_back=lambda: False, lag=0.0)
    assert run.poll() == status
    assert error is None or error in run.why(status)


def test_one_question_is_asked_about_all_jobs_and_not_too_often(tmp_path, monkeypatch):
    squeue(tmp_path / "bin", f'echo "$@" >> {tmp_path}/asked; echo "17|PENDING|Priority"', monkeypatch)
    queue = Queue()
    for job in ("17", "18"):
        queue.watch(job)
    assert [queue.state("17"), queue.state("18")] == [QueuedJob("PENDING", "Priority"), None]
    queue.watch("19")
    assert queue.state("19") == QueuedJob("UNKNOWN", ""), "nobody has asked about it yet"
    assert queue.state("19", age=0.0) is None
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in asked] == ["17,18", "17,18,19"]


def test_what_slurm_said_last_holds_until_it_answers(tmp_path, monkeypatch, capsys):
    squeue(tmp_path / "bin", 'echo "17|RUNNING|None"', monkeypatch)
    queue = Queue()
    queue.watch("17")
    assert queue.state("17", age=0.0).has_nodes
    squeue(tmp_path / "bin", "echo 'Unable to contact slurm controller' >&2; exit 1", monkeypatch)
    queue.watch("18")
    for _ in range(3):
        assert queue.state("17", age=0.0).has_nodes and queue.state("18", age=0.0) is not None
    assert capsys.readouterr().err.count("Unable to contact") == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tasks_per_node": 3}, r"cell seed=1 on 3 ranks \(1 node\): batch.global_size 8 is not a multiple"),
        ({"nodes": 2}, "local has one node"),
        ({"minutes": 2}, "a grace of 120 s leaves nothing of 2 minutes"),
    ],
)
def test_what_no_job_could_do_is_refused_before_any_is_queued(planned, tmp_path, asked, words):
    cells = list(planned(set={"batch": {"global_size": 8, "micro_size": 4}}, grid={"seed": [1, 2]}).values())
    starter = JobStarter(tmp_path / "jobs", JobConfig(cluster="local", **asked), 1)
    with pytest.raises(ValueError, match=words):
        starter.check(cells, check(cells))
    with pytest.raises(ValueError, match="expected an option of sbatch"):
        JobStarter(tmp_path / "jobs", JobConfig(cluster="local", sbatch=["A b"]), 1)
    assert not (tmp_path / "jobs").exists()


def test_cores_are_shared_out_between_the_cells_that_there_are(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    cells = list(planned(grid={"seed": [1, 2]}).values())
    config = SweepConfig(script="pretrain", config="tiny/teacher.json", slurm=JobConfig(cluster="local"))
    make = partial(_job_starter, config, tmp_path, cells, check(cells), uncommitted=False)
    assert [make(workers).workers for workers in (None, 1, 9)] == [2, 1, 2]


def test_the_cells_of_a_sweep_may_have_several_numbers_of_nodes(planned, tmp_path, monkeypatch):
    """As a job of launch/submit.py: refused where one of them cannot share the steps, with those that can."""
    cells = list(planned(set={"batch": {"global_size": 8, "micro_size": 1}}, grid={"seed": [1]}).values())
    programs = {"sinfo": "echo 'cpu*|up|4|64|257000|(null)|infinite'", "srun": ""}
    programs["sbatch"] = f"cat $2 > {tmp_path}/script"
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def check_on(nodes):
        JobStarter(tmp_path / "jobs", JobConfig(nodes=nodes), 1, uncommitted=True).check(cells, check(cells))

    with pytest.raises(ValueError, match=r"cell seed=1 on 3 ranks \(3 nodes\): .*can: slurm.nodes=1,2,4$"):
        check_on("1-4")
    check_on("1,2,4")
    assert "#SBATCH --nodes=1-4\n" in (tmp_path / "script").read_text()


@pytest.mark.parametrize("nodes", [0, -1, "4-2", "two", True, "2,1"])
def test_what_is_no_number_of_nodes_is_refused_with_the_config(nodes):
    with pytest.raises(ValueError, match="nodes"):
        JobConfig(nodes=nodes)
