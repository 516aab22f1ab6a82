"""Start-up of a process."""

import os

import pytest

from ofa.engine.process import own_threads

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("said", "here", "threads"),
    [
        ("3", "1", 3),
        ("5,2", "1", 5),
        (None, "1", CORES),
        ("", "1", CORES),
        ("0", "1", CORES),
        ("3", "2", max(1, CORES // 2)),  # torchrun says 1 of itself where it starts several
        ("1", "64", max(1, CORES // 64)),
    ],
)
def test_a_process_alone_has_the_threads_that_the_environment_says(monkeypatch, said, here, threads):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert own_threads() == threads
