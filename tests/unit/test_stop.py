"""Who may ask a run to stop. How ranks agree on the step is shown by tests/dist/test_stop.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ofa.stop import StopAgreement, StopRequest
from tests.processes import environment


@pytest.fixture
def request_of(tmp_path):
    """Factory of requests that watch signals, with a file beside the test."""
    made = []

    def make(**settings):
        made.append(StopRequest(tmp_path / "stop", **settings))
        made[-1].install()
        return made[-1]

    yield make
    for request in reversed(made):
        request.uninstall()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_asks_and_more_of_them_at_once_are_the_same_request(request_of, number):
    request = request_of()
    assert request.reason() is None
    os.kill(os.getpid(), number)
    assert request.reason() == f"{number.name} to rank 0"
    for again in (signal.SIGINT, signal.SIGTERM):  # as launchers send them
        os.kill(os.getpid(), again)
    time.sleep(0.1)
    assert request.reason() == f"{number.name} to rank 0"


BUSY = """
import ctypes, os, sys, time
from pathlib import Path
import ofa.stop
ofa.stop.ONE_REQUEST = 0.2
request = ofa.stop.StopRequest(Path("stop"))
request.install()
if sys.argv[1] == "gives up":
    request.uninstall()
print("busy", flush=True)
lock = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
lock.pthread_mutex_lock(mutex)
lock.pthread_mutex_lock(mutex)  # waits for ever outside of Python, as in a collective whose peer hangs
"""


def busy(tmp_path, *arguments, **variables):
    """A process that is stuck outside of Python."""
    command = [sys.executable, "-c", BUSY, *arguments]
    own = environment(**variables)
    process = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.2)
    return process


def test_a_late_second_signal_ends_a_process_that_hears_nothing(tmp_path):
    process = busy(tmp_path, "listens")
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    time.sleep(1.0)
    assert process.poll() is None, "signals at once are one request"
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=30) == 130
    assert process.stderr.read() == "asked to stop again: ending at once, without saving; what was saved before stays\n"


def test_the_end_of_slurms_grace_takes_no_time_from_a_run_that_still_saves(tmp_path):
    """Slurm sends SIGTERM twice, and kills by itself; a user may still want an end at once."""
    process = busy(tmp_path, "listens", SLURM_JOB_ID="17")
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130


def test_signals_that_were_given_back_act_as_before(tmp_path):
    process = busy(tmp_path, "gives up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_file_asks_and_is_gone_once_it_was_heard(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr("ofa.stop.BETWEEN_LOOKS", 0.0)
    request = request_of()
    assert request.reason() is None
    (tmp_path / "stop").touch()
    assert str(tmp_path / "stop") in request.reason()
    request.done()
    assert request.reason() is None


def test_the_time_limit_asks(request_of):
    assert request_of(time_limit=3600.0).reason() is None
    assert request_of(time_limit=0.0).reason() == "the time limit"


def test_one_rank_stops_after_the_step_in_which_it_was_asked(request_of):
    request = request_of()
    stop = StopAgreement(request, None)
    assert not stop.is_due(3)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_due(4) and stop.is_due(5)
