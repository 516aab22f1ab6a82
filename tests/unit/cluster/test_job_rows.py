"""Rows of jobs that have no run folder."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ofa.cluster.attempts import write_end, write_start
from ofa.cluster.find import look_at
from ofa.cluster.job_rows import job_row
from ofa.cluster.jobs_file import note_job
from ofa.cluster.queue import QueuedJob
from ofa.cluster.row import State
from tests.commands import command
from tests.unit.cluster.test_show import squeue

PREPARE = "-m data_prep --config configs/tiny/docstrings.json"


@pytest.fixture
def job(tmp_path):
    """Notes a job as `launch/submit.py` does: its folder."""

    def submitted(number, text=PREPARE, *, log=None, ago=0.0, is_local=False):
        path = tmp_path / "runs" / ".jobs" / f"{number}_0_log.out"
        folder = path.parent / f"{number}_attempts"
        process = number if is_local else None
        note_job(folder, str(number), command=text, log=path, name="data_prep:docstrings", process=process)
        if log is not None:
            path.write_text(log)
            os.utime(path, (time.time() - ago,) * 2)
        return folder

    return submitted


def start(folder, *, node="n1", restart=0):
    """An attempt of its job."""
    number = folder.name.removesuffix("_attempts")
    return write_start(folder, job=number, restart=restart, nodes=[node], ranks=1, step=0, commit=None)


def look(folder, jobs=None):
    """Its row."""
    return job_row(look_at(folder), jobs)


def test_a_job_that_waits_runs_and_waits_again(job):
    folder = job(17)
    waits, runs = {"17": QueuedJob("PENDING", "Priority")}, {"17": QueuedJob("RUNNING", "")}
    assert (look(folder, waits).state, look(folder, waits).waits_for) == (State.PENDING, "Priority")
    assert (look(folder, runs).state, look(folder, runs).command) == (
        State.RUNNING,
        "data_prep --config configs/tiny/docstrings.json",
    )
    start(folder)
    assert look(folder, waits).state == State.REQUEUED and look(folder, waits).attempts == 1
    assert look(folder, {"17": QueuedJob("RUNNING", "", os.getuid(), "another")}).state == State.KILLED


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        (0, None, State.FINISHED),
        (75, None, State.STOPPED),
        (75, "error: not queued again", State.GIVEN_UP),
        (1, "error: no space", State.FAILED),
    ],
)
def test_how_it_ended_is_told_by_its_last_attempt(job, status, error, state):
    folder = job(17)
    write_end(folder, start(folder), status=1, step=0, reason="crashed", error="error: before")
    write_end(folder, start(folder, restart=1), status=status, step=0, reason="x", error=error)
    found = look(folder, {})
    assert (found.state, found.attempts) == (state, 2)
    assert found.error == (error and error.removeprefix("error: ")), "what was before is mended"
    assert (found.step, found.total, found.loss, found.eta) == (None, None, None, None)


def test_one_that_died_before_it_began_says_why_and_one_that_never_left_the_queue_does_not(job):
    found = look(job(17, log="ImportError: torn\nsrun: error: n1: task 0: Exited with exit code 1\n"), {})
    assert (found.state, found.error) == (State.FAILED, "ImportError: torn")
    assert look(job(18), {}).state == State.NEVER_STARTED


def test_without_anybody_to_ask_one_that_writes_runs(job):
    """As from a machine that sees the disk, and is not of the cluster."""
    folder = job(17, log="part 3\n")
    start(folder)
    assert look(folder).state == State.RUNNING and look(folder, {}).state == State.KILLED
    folder = job(18, log="part 3\n", ago=1e4)
    start(folder)
    assert look(folder).state == State.KILLED


def test_a_process_of_this_machine_is_no_job_of_slurm(job):
    folder = job(os.getpid(), is_local=True)
    start(folder, node=socket.gethostname())
    assert look(folder, {}).state == State.RUNNING
    gone = job(2**22 + 1, is_local=True)
    start(gone, node=socket.gethostname())
    foreign = {str(2**22 + 1): QueuedJob("RUNNING", "")}
    assert look(gone, foreign).state == State.KILLED


def test_the_table_has_them_behind_the_runs_the_last_of_each_command(make, job, tmp_path, monkeypatch):
    make("ofa_90").begun().trained(100).finished().given_back()
    first = job(9)
    write_end(first, start(first), status=1, step=0, reason="crashed", error="error: no such file")
    os.utime(first / "jobs.json", (time.time() - 100,) * 2)
    other = job(10, "launch/report.py runs/ofa_90")
    write_end(other, start(other), status=1, step=0, reason="crashed", error="error: no matplotlib")
    job(17)
    squeue(tmp_path / "bin", f'echo "17|PENDING|Resources|{os.getuid()}|data_prep:docstrings"', monkeypatch)
    _, run, report, prepare, _, counts = command("status.py", cwd=tmp_path).out.splitlines()
    assert run.split()[:2] == ["runs/ofa_90", "finished"]
    assert report.startswith("job 10: report runs/ofa_90  ")
    assert report.split()[4:] == ["failed", "1", "no", "matplotlib"], "what has no meaning for it is left out"
    assert prepare.startswith("job 17: data_prep --config configs/tiny/docstrings.json  pending: Resources")
    assert counts == "1 run and 2 other jobs: 1 finished, 1 pending, 1 failed"


def test_a_damaged_list_of_one_costs_no_other_row(job, tmp_path, monkeypatch):
    squeue(tmp_path / "bin", "", monkeypatch)
    (job(17) / "jobs.json").write_text("{")
    folder = job(18)
    write_end(folder, start(folder), status=0, step=0, reason="done")
    out = command("status.py", cwd=tmp_path).out
    assert "17_attempts/jobs.json is damaged" in out and out.splitlines()[-1].endswith("1 finished, 1 unreadable")


def test_a_job_that_was_run_here_has_a_row(tmp_path):
    """From the command that starts it to the one that looks."""
    (tmp_path / "runs").mkdir()
    submit = Path("launch", "submit.py").absolute()
    options = ("--cluster", "local", "--follow", "verify", "runs")
    done = subprocess.run([sys.executable, submit, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "error: verify failed" in done.stderr
    row = command("status.py", cwd=tmp_path).out.splitlines()[1]
    assert re.fullmatch(r"job \d+: verify runs +failed +1 +runs is neither a run folder.*", row)
