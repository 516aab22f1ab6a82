"""Back into the queue, with a program in place of a `scontrol` that fails: a whole attempt, as rank 0 of a job."""

import os
import subprocess
import sys
import time

import pytest

from ofa.cluster.attempts import read_attempts
from ofa.cluster.resources import BEGAN
from ofa.cluster.verdict import SAVED, TOO_LONG, UNSAVED

ATTEMPT = """
from pathlib import Path
from ofa.cluster import requeue
from ofa.cluster.attempt import Command, JobTask
from ofa.cluster.verdict import Limits
requeue.BETWEEN, requeue.PATIENCE = 0.05, {patience}
command = Command(("-c", {program!r}), Path.cwd(), False, Path("run").absolute())
JobTask(command, folder=Path("jobs"), grace=120, limits=Limits(crashes=1), time=1800.0)()
"""

SAVES = "import sys; sys.exit(75)"
SIGNALLED = "import os, signal, time; os.kill(os.getppid(), signal.SIGUSR2); time.sleep(60)"
"""By whom Slurm's signal is passed back, which ends it."""

PLACE = {"JOB_ID": "17", "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}

SCONTROL = """#!/bin/sh
echo "$*" >> asked
case $1 in show) echo "JobId=17 JobState={state}"; exit 0;; esac
[ $(grep -c requeue asked) -gt {failures} ] || {{ echo "Socket timed out" >&2; exit 1; }}
"""


@pytest.fixture
def attempt(tmp_path):
    """Does an attempt that saves, where `scontrol` has a text; (exit status, what it said)."""

    def run(scontrol, patience=60.0, program=SAVES, **variables):
        (tmp_path / "bin").mkdir(exist_ok=True)
        if scontrol is not None:
            (tmp_path / "bin" / "scontrol").write_text(scontrol)
            (tmp_path / "bin" / "scontrol").chmod(0o755)
        slurm = {f"SLURM_{name}": value for name, value in PLACE.items()} | {"SLURM_JOB_NODELIST": "n1"}
        path = str(tmp_path / "bin") + ("" if scontrol is None else f":{os.environ['PATH']}")
        done = subprocess.run(
            [sys.executable, "-c", ATTEMPT.format(patience=patience, program=program)],
            cwd=tmp_path,
            env={**os.environ, **slurm, "SUBMITIT_EXECUTOR": "slurm", "PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stderr

    return run


def test_a_controller_that_is_busy_for_a_while_costs_no_run(attempt, tmp_path):
    status, said = attempt(SCONTROL.format(state="RUNNING", failures=2))
    assert status == 0, said
    assert (tmp_path / "asked").read_text().count("requeue 17") == 3
    assert said.count("Socket timed out") == 1, "said once, however often"
    (one,) = read_attempts(tmp_path / "run")
    assert (one.end.status, one.end.reason, one.end.error) == (75, SAVED, None)


def test_one_that_never_answers_is_the_error_of_the_attempt(attempt, tmp_path):
    """Which has saved, but is not continued: who looks at it is to see why."""
    status, said = attempt(SCONTROL.format(state="RUNNING", failures=10**6), patience=0.5)
    assert status == 75 and (tmp_path / "asked").read_text().count("requeue 17") > 1
    (one,) = read_attempts(tmp_path / "run")
    assert (one.end.status, one.end.reason) == (75, SAVED)
    assert one.end.error == "job 17 cannot be queued again: scontrol says: Socket timed out"
    assert one.end.error in said


def test_a_job_that_was_cancelled_meanwhile_stays_so(attempt, tmp_path):
    status, said = attempt(SCONTROL.format(state="CANCELLED", failures=0))
    assert status == 75 and "job 17 was taken back" in said
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_a_node_without_scontrol_is_said_when_the_attempt_begins(attempt, tmp_path):
    """And not days later, when it would be needed."""
    status, said = attempt(None, patience=0.1)
    assert status == 75
    warning, *_ = [line for line in said.splitlines() if "no scontrol" in line]
    assert warning.startswith("warning: there is no scontrol on this node")
    (one,) = read_attempts(tmp_path / "run")
    assert "cannot be queued again: there is no scontrol here" in one.end.error


@pytest.mark.parametrize(("ago", "statuses"), [(1625, [0, 1]), (1500, [0, 0])])
def test_a_script_that_the_limit_ends_each_time_is_given_up(attempt, tmp_path, ago, statuses):
    """One that saves nothing, of 30 minutes, at the signal 120 s before, or up to 60 s earlier; not if preempted."""
    began = {BEGAN: str(int(time.time() - ago))}
    scontrol = SCONTROL.format(state="RUNNING", failures=0)
    found = [attempt(scontrol, program=SIGNALLED, SLURM_RESTART_COUNT=str(restart), **began) for restart in (0, 1)]
    assert [status for status, _ in found] == statuses, found
    reasons = {one.end.reason for one in read_attempts(tmp_path / "run")}
    assert reasons == ({TOO_LONG} if statuses[1] else {UNSAVED})
    assert ("choose a longer --time" in found[1][1]) == bool(statuses[1])
