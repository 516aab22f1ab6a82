"""Two hosts that train together: their network, their ssh, and a project on the disk that they share."""

import subprocess
import sys

import pytest

from benchmarks import hosts
from tests import processes
from tests.e2e.conftest import SPARSE, TINY
from tests.multinode import ssh
from tests.projects import with_teacher

TIMEOUT = 500
"""Seconds: two ranks may have one core."""

SHORT = {**TINY, "schedule": {"total_steps": 12, "warmup_steps": 2}}
SHORT_SPARSE = {**SPARSE, "schedule": {}, "pruning": {"sparsity": 0.9, "ramp_end": 6, "end": 9, "frequency": 3}}


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two hosts, alpha and beta."""
    reason = hosts.missing()
    if reason is not None:
        pytest.skip(reason)
    with hosts.two_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="session")
def ssh_folder(pair, tmp_path_factory):
    """The folder of the `ssh` that reaches them."""
    reason = ssh.missing()
    if reason is not None:
        pytest.skip(reason)
    with ssh.servers(pair, tmp_path_factory.mktemp("ssh")) as folder:
        yield folder


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """Data, configs and a trained teacher."""
    return with_teacher(tmp_path_factory.mktemp("project"), cold=True, teacher=SHORT, sparse=SHORT_SPARSE)


@pytest.fixture(scope="session")
def local(project):
    """Run folder of the sparse recipe on two ranks of one host."""
    processes.script("pretrain.py", "--config", "sparse.json", "--run-dir", "runs/local", cwd=project, ranks=2)
    return project / "runs" / "local"


@pytest.fixture(scope="session")
def ranks_on(pair):
    """ranks_on(program, *arguments, cwd=...): run a Python file on a rank of each host, to its end."""

    def run(program, *arguments, cwd):
        started = []
        for rank, host in enumerate(pair):
            place = {"RANK": rank, "LOCAL_RANK": 0, "MASTER_ADDR": pair[0].address, "MASTER_PORT": 29500}
            env = {"WORLD_SIZE": 2, "LOCAL_SIZE": 1, "GLOO_SOCKET_IFNAME": hosts.INTERFACE, **place}
            command = host.command(sys.executable, program, *arguments, cwd=cwd, env=env)
            started.append(subprocess.Popen(command, env=processes.environment(), stdin=subprocess.DEVNULL))
        try:
            assert [process.wait(TIMEOUT) for process in started] == [0, 0]
        finally:
            for process in started:
                process.kill()

    return run
