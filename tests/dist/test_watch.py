"""A rank that dies or hangs takes the others down, and they name it: real ranks over gloo, ended in real ways.

A watch that saw nothing would leave ranks in a collective until gloo's time-out of half an hour; a watch that only saw
that something is wrong would not name the rank.
"""

import signal
from pathlib import Path

import pytest

from tests.processes import TIMEOUT, Group

WORKER = Path(__file__).with_name("watch_worker.py")
PATIENCE = 3
AGAIN = "start the same command again, it continues from the last checkpoint"


def running(folder, ranks):
    """Whether every rank has made steps."""
    files = [folder / f"step-{rank}" for rank in range(ranks)]
    return lambda: all(file.exists() and file.read_text() not in ("", "0", "1") for file in files)


def begin(folder, ranks, event="none", chosen=0, patience=PATIENCE):
    """The ranks of one run."""
    return Group(WORKER, patience, event, chosen, number=ranks, cwd=folder)


def check_named(group, rank, words):
    """Every other rank has ended with status 1 and one line that names this one, and no traceback."""
    others = [other for other in range(len(group.processes)) if other != rank]
    assert group.statuses(without=rank) == [1] * len(others), group.said()
    for other in others:
        said = group.out[other].read_text()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in said, said
        assert errors[0].startswith(f"error: rank {rank} (host ") and f"pid {group.processes[rank].pid}) " in errors[0]
        assert words in errors[0], said


@pytest.mark.parametrize(
    ("ranks", "rank", "by_launcher"),
    [
        (2, 0, False),
        (3, 1, True),
        pytest.param(2, 1, False, marks=pytest.mark.slow),
        pytest.param(3, 0, True, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_killed_ends_the_others_which_name_it(tmp_path, ranks, rank, by_launcher):
    """Long before the patience is over, and also where a launcher sends SIGTERM to those who are left, which at other
    times asks a run to save and stop."""
    with begin(tmp_path, ranks, patience=10_000) as group:
        group.wait_for(running(tmp_path, ranks))
        group.processes[rank].kill()
        group.processes[rank].wait()
        for process in group.processes if by_launcher else ():
            process.send_signal(signal.SIGTERM)
        check_named(group, rank, f"is gone: {AGAIN}")


@pytest.mark.parametrize(
    ("ranks", "rank"),
    [
        (2, 1),
        pytest.param(2, 0, marks=pytest.mark.slow),
        pytest.param(3, 0, marks=pytest.mark.slow),
        pytest.param(3, 1, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_frozen_ends_the_others_which_name_it(tmp_path, ranks, rank):
    with begin(tmp_path, ranks) as group:
        group.wait_for(running(tmp_path, ranks))
        group.processes[rank].send_signal(signal.SIGSTOP)
        check_named(group, rank, AGAIN)
        assert group.processes[rank].poll() is None
        group.processes[rank].send_signal(signal.SIGCONT)
        assert group.processes[rank].wait(TIMEOUT) == 1, "it finds itself alone"


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_others_are_told_of_an_error_on_one_rank(tmp_path, rank):
    with begin(tmp_path, 3, "error", rank) as group:
        check_named(group, rank, "ended with an error: this disk is full")
        assert group.processes[rank].wait(TIMEOUT) == 1
        assert "ValueError: this disk is" in group.out[rank].read_text()


def test_slow_ranks_are_no_hanging_ranks_and_a_normal_end_leaves_nothing_behind(tmp_path):
    """One rank sleeps for more than the patience while the other waits for it in a collective."""
    with begin(tmp_path, 2, "slow", 0) as group:
        assert group.statuses() == [0, 0], group.said()
        assert group.said().splitlines() == ["threads: ['MainThread']", "", "threads: ['MainThread']"]


@pytest.mark.slow
def test_an_exit_on_which_ranks_agreed_is_no_death(tmp_path):
    with begin(tmp_path, 2, "exit") as group:
        assert group.statuses() == [1, 1], group.said()
        assert group.said().strip() == ""
