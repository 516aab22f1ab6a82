"""The cluster that the tests of a file share, and a project on its shared disk."""

import os
import sys

import pytest

from tests import processes
from tests.e2e.conftest import SPARSE, TINY
from tests.projects import with_teacher
from tests.slurm.cluster import Cluster, missing

STEPS = 200
"""Some seconds of training, in which a cluster can change its mind."""

LONG = {
    "base": "sparse.json",
    "schedule": {"total_steps": STEPS, "rewind": {"start": 0, "end": 140, "frequency": 20}},
    "pruning": {"sparsity": 0.9, "ramp_end": 140, "end": 170, "frequency": 10},
    "log": {"every": 5, "samples": True},
    "checkpoint": {"every": 100000, "keep_last": 2},
    "evaluate": {"every": 100},
}
"""No checkpoint but those of stops."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A real Slurm of two nodes."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A folder with data, configs and a trained teacher."""
    return with_teacher(tmp_path_factory.mktemp("project"), teacher=TINY, sparse=SPARSE, long=LONG)


@pytest.fixture(scope="session")
def undisturbed(project):
    """Run folder of the long run on two local ranks, left alone from start to end."""
    program = processes.CHECKOUT / "launch" / "pretrain.py"
    arguments = ("--config", "long.json", "--run-dir", "undisturbed")
    with processes.Group(program, *arguments, number=2, cwd=project) as group:
        assert group.statuses() == [0, 0], group.said()
    return project / "undisturbed"


@pytest.fixture
def submit(cluster, project):
    """Calls launch/submit.py as a user does, in the project; the finished process and the jobs that it queued."""

    def call(*arguments, check=True, cwd=project):
        script = processes.CHECKOUT / "launch" / "submit.py"
        done = cluster.call(sys.executable, script, "--uncommitted", "--time", "30m", *arguments, cwd=cwd, check=check)
        jobs = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job ")]
        return done, jobs

    yield call
    cluster.call("scancel", "--user", str(os.getuid()), check=False)
    cluster.until("the queue", lambda: cluster.queue() == [])
