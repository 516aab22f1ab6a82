"""One attempt as submitit starts it, on its `local` cluster: environment, record, signals, what a failure shows."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import submitit

from ofa.cluster.attempt import Command, JobTask
from ofa.cluster.attempts import read_attempts, write_end, write_start
from ofa.cluster.verdict import CRASHED, SAVED, Limits

TELL = """
import json, os, pathlib
names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
pathlib.Path(f"rank-{os.environ['RANK']}").write_text(json.dumps({name: os.environ[name] for name in names}))
"""

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    checkpoints = pathlib.Path("run/checkpoints")
    checkpoints.mkdir()
    (checkpoints / "latest").write_text("step-00000012")
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Submits a program to the local cluster."""
    monkeypatch.chdir(tmp_path)

    def submit(program, *, tasks=1, trains=True, arguments=()):
        executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
        executor.update_parameters(timeout_min=5, tasks_per_node=tasks, stderr_to_stdout=True)
        command = Command(("-c", program, *arguments), tmp_path, trains, tmp_path / "run")
        return executor.submit(JobTask(command, folder=tmp_path / "jobs", grace=120, limits=Limits()))

    return submit


def said(job):
    """The log of rank 0, once the job has ended."""
    until = time.monotonic() + 120
    while not job.done():
        assert time.monotonic() < until
        time.sleep(0.05)
    return job.paths.stdout.read_text()


def test_ranks_find_each_other(start, tmp_path):
    job = start(TELL, tasks=2)
    assert job.results() == [0, 0]
    told = [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in (0, 1)]
    assert [one.pop("RANK") for one in told] == [one.pop("LOCAL_RANK") for one in told] == ["0", "1"]
    assert told[0] == told[1]
    assert (told[0]["WORLD_SIZE"], told[0]["LOCAL_WORLD_SIZE"], told[0]["MASTER_ADDR"]) == ("2", "2", "127.0.0.1")
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.job, attempt.ranks, attempt.end.status, attempt.end.reason) == (job.job_id, 2, 0, "done")
    assert attempt.commit


def test_a_script_of_one_process_is_no_rank(start, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert start("import os, sys; sys.exit('RANK' in os.environ)", trains=False).results() == [0]


def test_a_failure_fails_the_job_and_shows_why(start, tmp_path):
    job = start("import sys; print('error: no data in nowhere', file=sys.stderr); sys.exit(1)")
    assert "crashed: error: no data in nowhere" in said(job)
    assert job._process.returncode == 0 and job.exception() is not None
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.end.status, attempt.end.reason, attempt.end.error) == (1, CRASHED, "error: no data in nowhere")


def test_a_signal_reaches_the_run_and_is_no_crash(start, tmp_path):
    job = start(SAVES)
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until, job.stdout()
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    said(job)
    (attempt,) = read_attempts(tmp_path / "run")
    assert (attempt.step, attempt.end.status, attempt.end.step, attempt.end.reason) == (0, 75, 12, SAVED)


def test_a_job_that_was_killed_too_often_is_not_begun(tmp_path):
    """As after nodes that went down one after the other under the same run."""
    for restart in range(3):
        number = write_start(tmp_path / "run", job="J", restart=restart, nodes=["n"], ranks=1, step=4, commit=None)
    write_end(tmp_path / "run", number, status=1, step=4, reason=CRASHED, error="error: out of memory")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000004")
    path = tmp_path / "run" / "attempts.jsonl"
    program = "import pathlib; pathlib.Path('begun').touch()"
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5, stderr_to_stdout=True)
    command = Command(("-c", program), tmp_path, True, tmp_path / "run")
    job = executor.submit(_Renamed(path, JobTask(command, folder=tmp_path, grace=9, limits=Limits(crashes=2))))
    assert "killed or crashed 3 times in a row at step 4" in said(job) and "error: out of memory" in said(job)
    assert not (tmp_path / "begun").exists()


class _Renamed:
    """A task before whose start the attempts on record become those of its job."""

    def __init__(self, path, task):
        self._path, self._task = path, task

    def __call__(self):
        job = submitit.JobEnvironment().job_id
        self._path.write_text(self._path.read_text().replace('"J"', f'"{job}"'))
        return self._task()
