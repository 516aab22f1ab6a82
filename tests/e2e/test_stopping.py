"""Stopping two ranks in every way that users and clusters have, and going on."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.e2e.test_resume import at_step, metrics, model_bytes
from tests.processes import CHECKOUT, TIMEOUT, environment

RANKS = 2
RUN = ("--config", "sparse.json", "--set", "batch.micro_size=4", "--set", "log.every=1000")
"""No metrics line falls between the steps that matter, so nothing but the agreement tells ranks of each other."""


class Group:
    """The ranks of one run, as processes without a launcher, whose statuses can be read one by one."""

    def __init__(self, cwd, *arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.out = [cwd / f"rank-{rank}.out" for rank in range(RANKS)]
        self.processes = []
        for rank in range(RANKS):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_PORT": port}
            command = [sys.executable, str(CHECKOUT / "launch" / "pretrain.py"), *RUN, *arguments]
            with self.out[rank].open("w") as out:
                env = environment(**place, MASTER_ADDR="127.0.0.1")
                self.processes.append(
                    subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)
                )

    def wait_for(self, reached):
        """Until `reached()`; all ranks must still be there."""
        began = time.monotonic()
        while not reached():
            assert all(process.poll() is None for process in self.processes), self.said()
            assert time.monotonic() - began < TIMEOUT, self.said()
            time.sleep(0.002)

    def statuses(self):
        """Exit statuses by rank, once all have ended."""
        return [process.wait(timeout=TIMEOUT) for process in self.processes]

    def said(self):
        """What the ranks printed."""
        return "\n".join(path.read_text() for path in self.out)


@pytest.fixture(scope="module")
def alone(project):
    """Two ranks that nobody stopped."""
    group = Group(project, "--run-dir", "stopping/alone")
    assert group.statuses() == [0, 0], group.said()
    return project / "stopping" / "alone"


@pytest.mark.slow
def test_two_ranks_stop_together_however_they_are_asked_and_end_with_the_same_bytes(project, alone):
    """OFA-29: a signal to one rank, a stop file, a time limit; each ends both ranks with status 75 after a save."""
    folder = project / "stopping" / "stopped"
    steps = []

    def stopped(group, words):
        assert group.statuses() == [75, 75], group.said()
        assert words in group.said()
        steps.append((folder / "checkpoints" / "latest").read_text())

    group = Group(project, "--run-dir", str(folder))
    group.wait_for(at_step(folder, 3))
    os.kill(group.processes[1].pid, signal.SIGUSR2)
    stopped(group, "SIGUSR2 to rank 1")

    group = Group(project, "--run-dir", str(folder))
    group.wait_for(lambda: "continuing from" in group.out[0].read_text())
    (folder / "stop").touch()
    stopped(group, f"the file {folder}/stop")
    assert not (folder / "stop").exists()

    stopped(Group(project, "--run-dir", str(folder), "--time-limit", "1"), "the time limit")

    assert steps == sorted(set(steps)), "no attempt came further"
    group = Group(project, "--run-dir", str(folder))
    assert group.statuses() == [0, 0], group.said()
    assert model_bytes(folder) == model_bytes(alone)
    assert metrics(folder) == metrics(alone)
