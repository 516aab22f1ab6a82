"""Two hosts train the tiny recipe under each launcher that needs no Slurm, to the bytes of two ranks of one host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hosts import INTERFACE
from tests import processes
from tests.multinode.conftest import TIMEOUT
from tests.run_files import metrics, model_bytes

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
SCRIPT = processes.CHECKOUT / "launch" / "pretrain.py"
ON_EACH = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": INTERFACE}
"""What must be set on every host; `deepspeed` carries it there from `.deepspeed_env`."""


@pytest.fixture(scope="module")
def prepared(project, pair):
    """The project, with the files that DeepSpeed's launcher reads."""
    (project / "hostfile").write_text("".join(f"{host.name} slots=1\n" for host in pair))
    (project / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in ON_EACH.items()))
    return project


def run(name):
    """The recipe, in a run folder of that name."""
    return [SCRIPT, "--config", "sparse.json", "--run-dir", f"runs/{name}"]


def on(host, *words, cwd, **more):
    """Start a command at a host's own prompt, with more in its environment."""
    command = host.command(*words, cwd=cwd, env={**ON_EACH, **more})
    with (cwd / f"{host.name}.out").open("w") as out:
        return subprocess.Popen(command, env=processes.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def statuses(started, cwd, pair):
    """Theirs, once all have ended; what they said, if one has not."""
    try:
        return [process.wait(TIMEOUT) for process in started]
    except subprocess.TimeoutExpired:
        raise AssertionError(said(cwd, pair)) from None
    finally:
        for process in started:
            process.kill()


def said(cwd, pair):
    """What the commands printed."""
    written = [cwd / f"{host.name}.out" for host in pair]
    return "\n".join(path.read_text()[-6000:] for path in written if path.exists())


@pytest.fixture(autouse=True)
def between(pair):
    """Whatever the launcher, gradients pass from each host to the other."""
    before = [host.sent() for host in pair]
    yield
    grown = [host.sent() - start for host, start in zip(pair, before, strict=True)]
    assert min(grown) > 12 * 4 * 30_000, "12 steps of more than 30,000 weights"


def check(folder, local):
    """The run on two hosts is the run on one."""
    assert model_bytes(folder) == model_bytes(local)
    assert metrics(folder) == metrics(local)
    assert json.loads((folder / "config.json").read_text())["world_size"] == 2


def test_deepspeed_with_a_hostfile_over_pdsh_and_ssh(prepared, pair, ssh_folder, local):
    """One command on one host starts both; a stop file ends both, pdsh hands the status on, and the command continues
    the run."""
    command = [BIN / "deepspeed", "--hostfile", "hostfile", *run("pdsh")]
    path = f"{ssh_folder}:{processes.environment()['PATH']}"
    stop = prepared / "runs" / "pdsh" / "stop"
    stop.parent.mkdir()
    stop.touch()
    for expected in (75, 0):
        started = on(pair[0], *command, cwd=prepared, PATH=path)
        assert statuses([started], prepared, pair) == [expected], said(prepared, pair)
        assert not stop.exists()
    check(prepared / "runs" / "pdsh", local)


def test_deepspeed_on_each_host_without_ssh_between_them(prepared, pair, local):
    """The same command on each, with its number: where hosts are reached in another way, or pdsh is missing."""
    started = []
    for number, host in enumerate(pair):
        where = ["--hostfile", "hostfile", "--no_ssh", "--node_rank", number, "--master_addr", pair[0].address]
        started.append(on(host, BIN / "deepspeed", *where, *run("no_ssh"), cwd=prepared))
    assert statuses(started, prepared, pair) == [0, 0], said(prepared, pair)
    check(prepared / "runs" / "no_ssh", local)


def test_torchrun_on_each_host(prepared, pair, local):
    started = []
    for host in pair:
        where = ["--nnodes", 2, "--nproc_per_node", 1]
        meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{pair[0].name}:29400"]
        command = [sys.executable, "-m", "torch.distributed.run", *where, *meeting, *run("torchrun")]
        started.append(on(host, *command, cwd=prepared))
    assert statuses(started, prepared, pair) == [0, 0], said(prepared, pair)
    check(prepared / "runs" / "torchrun", local)
