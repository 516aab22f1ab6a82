"""A run submitted to two nodes, which is taken back, limited and robbed of its nodes, and ends as if left alone."""

import json
import time

import pytest

from ofa.cluster.attempts import read_attempts
from ofa.cluster.verdict import SAVED
from tests.run_files import metrics, model_bytes
from tests.slurm.conftest import STEPS

pytestmark = pytest.mark.slurm

ON_TWO = ("--nodes", "2", "--partition", "debug", "launch/pretrain.py", "--config", "long.json")


def log(project, job):
    """What rank 0 said."""
    path = project / "runs" / ".jobs" / f"{job}_0_log.out"
    return path.read_text() if path.exists() else ""


def last_step(folder):
    """Of the last metrics line; -1 if there is none."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def wait_for(cluster, project, job, reached, patience=600):
    """Until `reached()`, while the job is alive."""
    until = time.monotonic() + patience
    while not reached():
        state = cluster.job(job)["JobState"]
        assert state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"), (state, log(project, job))
        assert time.monotonic() < until, (cluster.job(job), log(project, job))
        time.sleep(0.1)


def ended(cluster, project, job, state="COMPLETED"):
    """The job's log, once it has ended in this state."""
    found = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE")
    assert found["JobState"] == state, (found, log(project, job))
    return log(project, job)


def test_a_run_on_two_nodes_is_the_run_of_two_local_ranks(cluster, project, submit, undisturbed):
    folder = project / "runs" / "two"
    done, (job,) = submit(*ON_TWO, "--run-dir", "runs/two")
    said = ended(cluster, project, job)
    assert "done" not in said or "Traceback" not in said
    assert model_bytes(folder) == model_bytes(undisturbed)
    assert metrics(folder) == metrics(undisturbed)
    (attempt,) = read_attempts(folder)
    assert (attempt.job, attempt.restart, attempt.nodes, attempt.ranks) == (job, 0, ("n1", "n2"), 2)
    assert attempt.end.status == 0 and attempt.end.step == STEPS
