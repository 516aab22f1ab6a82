"""Stopping two ranks in every way that users and clusters have, and going on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import processes
from tests.e2e.conftest import ON_TWO, group_of_two
from tests.e2e.test_resume import at_step
from tests.run_files import metrics, model_bytes


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


def last_saved(folder):
    """Step of the newest checkpoint."""
    return int((folder / "checkpoints" / "latest").read_text().removeprefix("step-"))


WHOM = [0, 1, "all"]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
QUICK = (signal.SIGINT, "all")


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        pytest.param(number, whom, marks=[] if (number, whom) == QUICK else pytest.mark.slow)
        for number in SIGNALS
        for whom in WHOM
    ],
)
def test_each_signal_to_any_rank_or_to_all_saves_and_ends_with_75(project, number, whom):
    """OFA-31: nothing newer than the checkpoint is left to do again."""
    folder = project / "stopping" / f"{number.name}-{whom}"
    with group_of_two(project, "--run-dir", str(folder), "--set", "checkpoint.every=1000") as group:
        group.wait_for(at_step(folder, 3))
        if whom == "all":
            os.killpg(group.processes[0].pid, number)
        else:
            os.kill(group.processes[whom].pid, number)
        assert group.statuses() == [75, 75], group.said()
    assert "Traceback" not in group.said() and f"{number.name} to rank" in group.said()
    assert last_saved(folder) > 3
    assert metrics(folder)[-1]["step"] < last_saved(folder)


@pytest.mark.slow
def test_asked_again_while_a_rank_hangs_it_ends_at_once_and_the_next_start_continues(project, two_undisturbed):
    """Ranks cannot agree, because one is frozen; the checkpoint before stays in force."""
    folder = project / "stopping" / "again"
    with group_of_two(project, "--run-dir", str(folder)) as group:
        group.wait_for(at_step(folder, 10))
        group.wait_for((folder / "checkpoints" / "latest").is_file)
        os.kill(group.processes[1].pid, signal.SIGSTOP)
        group.processes[0].send_signal(signal.SIGTERM)
        time.sleep(6.0)
        assert group.processes[0].poll() is None, "the first request ends nothing by force"
        group.processes[0].send_signal(signal.SIGTERM)
        assert group.processes[0].wait(timeout=30) == 130, group.said()
        assert "asked to stop again: ending at once, without saving" in group.said()
    with group_of_two(project, "--run-dir", str(folder)) as group:
        assert group.statuses() == [0, 0], group.said()
        assert "continuing from" in group.said()
    assert model_bytes(folder) == model_bytes(two_undisturbed)


@pytest.mark.slow
def test_ctrl_c_under_the_launcher_of_deepspeed_saves(project):
    """It sends rank 0 SIGINT and SIGTERM at once, which is one request."""
    folder = project / "stopping" / "launcher"
    launcher = Path(sys.executable).with_name("deepspeed")
    script = str(processes.CHECKOUT / "launch" / "pretrain.py")
    command = [str(launcher), "--num_gpus", "2", script, *ON_TWO, "--run-dir", str(folder)]
    command += ["--set", "schedule.total_steps=2000", "--set", "checkpoint.every=1000"]
    path = f"{launcher.parent}:{processes.environment()['PATH']}"
    env = processes.environment(PATH=path, DS_ACCELERATOR="cpu")
    with (project / "launcher.out").open("w") as out:
        process = subprocess.Popen(command, cwd=project, env=env, stdout=out, stderr=out, start_new_session=True)
    while not at_step(folder, 20)():
        assert process.poll() is None, (project / "launcher.out").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=processes.TIMEOUT)
    said = (project / "launcher.out").read_text()
    assert "stopped and saved: start the same command again to continue" in said
    assert 20 < last_saved(folder) < 1000 and metrics(folder)[-1]["step"] < last_saved(folder)
