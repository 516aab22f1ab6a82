"""Stopping two ranks in every way that users and clusters have, and going on."""

import os
import signal
import time

import pytest

from tests.e2e.test_resume import at_step
from tests.processes import TIMEOUT, start_ranks
from tests.run_files import metrics, model_bytes

RANKS = 2
RUN = ("--config", "sparse.json", "--set", "batch.micro_size=4", "--set", "log.every=1000")
"""No metrics line falls between the steps that matter, so nothing but the agreement tells ranks of each other."""


class Group:
    """The ranks of one run, as processes without a launcher, whose statuses can be read one by one."""

    def __init__(self, cwd, *arguments):
        self.out = [cwd / f"rank-{rank}.out" for rank in range(RANKS)]
        self.processes = start_ranks("pretrain.py", *RUN, *arguments, cwd=cwd, outputs=self.out)

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
