"""A rank of a real run dies or hangs: the other ends with one line that names it, and the next start continues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ON_TWO, group_of_two
from tests.e2e.test_resume import at_step
from tests.processes import CHECKOUT, TIMEOUT, environment
from tests.run_files import metrics, model_bytes

AGAIN = "start the same command again, it continues from the last checkpoint"
SAVING = ("--set", "checkpoint.every=3", "--set", "engine.patience=6")
"""So that every attempt comes further than the one before."""


def check_said(said, rank, pid):
    """One error line, which names the rank; no traceback, nor one of C++."""
    assert "frame #" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said, said
    assert errors[0].startswith(f"error: rank {rank} (host ") and f"pid {pid}) " in errors[0], said
    assert errors[0].endswith(AGAIN), said


def disturb(project, folder, rank, number, step):
    """Send a rank a signal as soon as the run has reached a step, and see the other end."""
    with group_of_two(project, "--run-dir", str(folder), *SAVING) as group:
        group.wait_for(at_step(folder, step))
        group.processes[rank].send_signal(number)
        assert group.statuses(without=rank) == [1], group.said()
        check_said(group.out[1 - rank].read_text(), rank, group.processes[rank].pid)


def test_the_other_rank_of_a_killed_one_ends_and_names_it(project):
    disturb(project, project / "dying" / "killed-1", 1, signal.SIGKILL, 6)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_while_it_starts_is_not_waited_for_long(project, rank):
    """Before the ranks have met, so nobody can say which one it was."""
    folder = project / "dying" / f"starting-{rank}"
    with group_of_two(project, "--run-dir", str(folder), "--set", "engine.patience=4") as group:
        time.sleep(1.0)
        group.processes[rank].kill()
        assert group.statuses(without=rank) == [1], group.said()
        said = group.out[1 - rank].read_text()
    assert "error: 2 ranks did not all come within 20 s (engine.patience times 5)" in said and AGAIN in said
    assert "Traceback" not in said and "frame #" not in said
    assert not folder.exists()


@pytest.mark.slow
def test_the_rank_that_serves_the_board_is_named_too(project):
    disturb(project, project / "dying" / "killed-0", 0, signal.SIGKILL, 6)


@pytest.mark.slow
def test_a_run_whose_ranks_died_and_froze_ends_with_the_bytes_of_an_undisturbed_one(project, two_undisturbed):
    """OFA-29: whoever it was, and however it went, the next start continues from the newest checkpoint."""
    folder = project / "dying" / "all"
    disturb(project, folder, 1, signal.SIGKILL, 3)
    disturb(project, folder, 1, signal.SIGSTOP, 9)
    disturb(project, folder, 0, signal.SIGKILL, 12)
    disturb(project, folder, 0, signal.SIGSTOP, 18)
    with group_of_two(project, "--run-dir", str(folder), *SAVING) as group:
        assert group.statuses() == [0, 0], group.said()
        assert "continuing from" in group.said()
    assert model_bytes(folder) == model_bytes(two_undisturbed)
    assert metrics(folder) == metrics(two_undisturbed)


def pid_of_rank(rank, parent):
    """Of a launcher's child."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"process {parent} has no child of rank {rank}")


@pytest.mark.slow
def test_a_launcher_that_ends_those_who_are_left_lets_them_say_who_died(project):
    """torchrun sends SIGTERM, which at other times asks to save and stop, within a tenth of a second."""
    folder, output = project / "dying" / "launched", project / "launched.out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(CHECKOUT / "launch" / "pretrain.py"), *ON_TWO, "--run-dir", str(folder)]
    with output.open("w") as out:
        launcher = subprocess.Popen(command, cwd=project, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    reached = at_step(folder, 6)
    while not reached():
        assert launcher.poll() is None, output.read_text()
        time.sleep(0.002)
    pid = pid_of_rank(1, launcher.pid)
    os.kill(pid, signal.SIGKILL)
    assert launcher.wait(TIMEOUT) == 1
    said = output.read_text()
    check_said(said[: said.index("ChildFailedError")].rpartition("Traceback")[0], 1, pid)
