"""Who may ask a run to stop. How ranks agree on the step is shown by tests/dist/test_stop.py."""

import os
import signal
import time

import pytest

from ofa.stop import StopAgreement, StopRequest


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
def test_a_signal_asks_and_a_late_second_one_ends_the_process(request_of, monkeypatch, number):
    request = request_of()
    assert request.reason() is None
    os.kill(os.getpid(), number)
    assert request.reason() == f"{number.name} to rank 0"
    os.kill(os.getpid(), signal.SIGINT)  # at once: the same request, as launchers send it
    monkeypatch.setattr("ofa.stop.ONE_REQUEST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


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
