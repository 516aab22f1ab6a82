"""Stopping two ranks in every way that users and clusters have, and going on."""

import os
import signal

import pytest

from tests.e2e.conftest import group_of_two
from tests.e2e.test_resume import at_step, metrics, model_bytes


@pytest.mark.slow
def test_two_ranks_stop_together_however_they_are_asked_and_end_with_the_same_bytes(project, two_undisturbed):
    """OFA-29: a signal to one rank, a stop file, a time limit; each ends both ranks with status 75 after a save."""
    folder = project / "stopping" / "stopped"
    steps = []

    def stopped(group, words):
        assert group.statuses() == [75, 75], group.said()
        assert words in group.said()
        steps.append((folder / "checkpoints" / "latest").read_text())

    group = group_of_two(project, "--run-dir", str(folder))
    group.wait_for(at_step(folder, 3))
    os.kill(group.processes[1].pid, signal.SIGUSR2)
    stopped(group, "SIGUSR2 to rank 1")

    group = group_of_two(project, "--run-dir", str(folder))
    group.wait_for(lambda: "continuing from" in group.out[0].read_text())
    (folder / "stop").touch()
    stopped(group, f"the file {folder}/stop")
    assert not (folder / "stop").exists()

    stopped(group_of_two(project, "--run-dir", str(folder), "--time-limit", "1"), "the time limit")

    assert steps == sorted(set(steps)), "no attempt came further"
    group = group_of_two(project, "--run-dir", str(folder))
    assert group.statuses() == [0, 0], group.said()
    assert model_bytes(folder) == model_bytes(two_undisturbed)
    assert metrics(folder) == metrics(two_undisturbed)
