"""How long the first rank waits for the words of another one."""

import os
import signal
import sys
import threading
import time

import pytest

from ofa.cluster.attempt import SIGNALS, Command, JobTask, Signals
from ofa.cluster.other_ranks import OF_THIS_NODE
from ofa.cluster.place import Place
from ofa.cluster.verdict import Ended, Limits

GONE = Ended(1, error="error: rank 1 (host b, pid 7) is gone: start the same command again")


@pytest.fixture
def watch():
    """Signals that ask this process to end are heard, until the test has ended."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCONT)}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def wait(tmp_path, watch):
    """wait(nodes) -> what the first of two ranks makes of its end."""
    task = JobTask(Command((), tmp_path, True, None), folder=tmp_path, grace=60, limits=Limits())
    return lambda *nodes: task._with_others(GONE, Place("slurm", "17", 0, nodes, 0, 2), watch)


def later(seconds, action):
    """Do it then."""
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_words_from_another_node_may_take_longer_than_those_of_this_one(tmp_path, wait):
    words = "rank 1, start 0, ended at 5.0: out of memory\n"
    assert wait("a").lost
    timer = later(OF_THIS_NODE + 1, lambda: (tmp_path / "17_1_log.out").write_text(words))
    found = wait("a", "b")
    timer.join()
    assert not found.lost and found.error.endswith("rank 1 ended first: out of memory")


def test_who_is_asked_to_end_waits_for_no_words(wait):
    began = time.monotonic()
    later(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).join()
    assert wait("a", "b").lost and time.monotonic() - began < OF_THIS_NODE


def test_last_words_reach_the_disk_wherever_they_go(tmp_path):
    """A pipe has none."""
    code = "from ofa.cluster.other_ranks import say_end; say_end(1, 0, 'no such file')"
    assert os.system(f'{sys.executable} -c "{code}" 2>&1 | grep -q "^rank 1, start 0, ended at .*: no such file$"') == 0
