"""What counts as silence. How it ends a run is shown by tests/dist/test_watch.py."""

import pytest
from torch.distributed import DistBackendError, DistNetworkError

from ofa.heartbeat import LEFT, Silence
from ofa.watch import Watch, is_broken_connection


def test_a_beat_that_stands_still_is_silent_for_the_time_that_was_looked_on():
    silence = Silence(longest=2.0)
    assert silence.look({1: "1", 2: "1"}, 100.0) == {1: 0.0, 2: 0.0}
    assert silence.look({1: "2", 2: "1"}, 101.0) == {1: 0.0, 2: 1.0}
    assert silence.look({1: "2", 2: "1"}, 102.5) == {1: 1.5, 2: 2.5}
    assert silence.look({1: "3", 2: "1"}, 103.0) == {1: 0.0, 2: 3.0}


def test_time_in_which_nobody_looked_is_no_silence():
    """A job that was suspended for an hour goes on with its patience as it was."""
    silence = Silence(longest=2.0)
    silence.look({1: "1"}, 0.0)
    assert silence.look({1: "1"}, 3600.0) == {1: 2.0}


def test_who_has_left_is_not_silent_and_who_comes_late_starts_at_nothing():
    silence = Silence(longest=2.0)
    silence.look({1: "1"}, 0.0)
    assert silence.look({1: LEFT, 2: "7"}, 1.0) == {2: 0.0}
    assert silence.look({1: LEFT, 2: "7"}, 2.0) == {2: 1.0}


@pytest.mark.parametrize(
    "words",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:6881",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv",
        "writev [127.0.0.1]:2131: Connection reset by peer",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_words_of_a_broken_connection(words):
    assert is_broken_connection(RuntimeError(words))


def test_the_backends_own_errors_are_broken_connections_and_others_are_not():
    assert is_broken_connection(DistBackendError("any")) and is_broken_connection(DistNetworkError("any"))
    assert not is_broken_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x4 and 5x5)"))
    assert not is_broken_connection(ValueError("Connection closed by peer"))


def test_one_rank_has_nobody_to_watch():
    watch = Watch(None, 3.0)
    watch.failed(RuntimeError("Connection closed by peer"))
    watch.close()
