"""Chains of jobs on this machine, without Slurm: submitit's `local` and `debug`."""

import json

import pytest

from ofa.cluster.attempts import read_attempts
from tests import processes
from tests.run_files import model_bytes

SHORT = ("--config", "sparse.json", "--set", "log.every=1000")


@pytest.mark.slow
def test_a_chain_of_local_jobs_trains_on_two_ranks_and_then_verifies(project, two_undisturbed):
    run = ("--tasks-per-node", "2", "launch/pretrain.py", *SHORT, "--run-dir", "here/two")
    verify = ("--then", "launch/verify.py", "here/two")
    done = processes.script("submit.py", "--cluster", "local", "--follow", *run, *verify, cwd=project, cold=True)
    assert "sparse student" in done.stdout and "is what it says it is" in done.stdout
    folder = project / "here" / "two"
    assert model_bytes(folder) == model_bytes(two_undisturbed)
    (attempt,) = read_attempts(folder)
    (job,) = json.loads((folder / "jobs.json").read_text())["jobs"]
    assert (attempt.ranks, attempt.end.status, attempt.job) == (2, 0, job["job"])


def test_a_debug_job_ends_with_the_status_of_what_it_runs(project):
    for folder, status in (("runs/teacher", 0), ("runs/none", 1)):
        job = ("--cluster", "debug", "launch/verify.py", folder)
        done = processes.script("submit.py", *job, cwd=project, check=False, cold=True)
        assert done.returncode == status, done
    assert "runs/none" in done.stderr
