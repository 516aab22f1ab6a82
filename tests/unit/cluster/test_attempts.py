"""What an attempt leaves behind, read again: also after kills in the middle of a line."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.cluster.attempts import ATTEMPTS_FILE, attempts_of, read_attempts, write_end, write_start

STARTED = {"job": "17_3", "restart": 0, "nodes": ["n1", "n2"], "ranks": 2, "step": 0, "commit": "abc"}


def test_a_run_that_nobody_has_started_has_no_attempts(tmp_path):
    assert read_attempts(tmp_path) == []


def test_what_was_written_is_read(tmp_path):
    folder = tmp_path / "run"
    first = write_start(folder, **STARTED)
    write_end(folder, first, status=75, step=8, reason="stopped and saved")
    second = write_start(folder, **{**STARTED, "restart": 1, "nodes": ["n2"], "ranks": 1, "step": 8})
    one, two = read_attempts(folder)
    assert (first, second) == (1, 2) == (one.number, two.number)
    assert (one.job, one.nodes, one.ranks, one.step, one.commit) == ("17_3", ("n1", "n2"), 2, 0, "abc")
    assert (one.end.status, one.end.step, one.end.reason, one.end.error) == (75, 8, "stopped and saved", None)
    assert (two.restart, two.nodes, two.step, two.end) == (1, ("n2",), 8, None)
    assert one.time.endswith("+00:00") and one.end.time >= one.time


@given(cut=st.integers(2, 60))
def test_a_torn_last_line_costs_only_itself(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    number = write_start(folder, **STARTED)
    write_end(folder, number, status=1, step=3, reason="crashed", error="error: no")
    whole = read_attempts(folder)
    write_end(folder, number, status=75, step=9, reason="stopped and saved")
    path = folder / ATTEMPTS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_attempts(folder) == whole
    assert write_start(folder, **STARTED) == 2
    assert [attempt.number for attempt in read_attempts(folder)] == [1, 2]


@pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b'{"attempt": "one", "event": "start"}\n', b"\xff\xfe\n"])
def test_lines_of_others_are_passed_over(tmp_path, line):
    (tmp_path / ATTEMPTS_FILE).write_bytes(line)
    assert read_attempts(tmp_path) == []
    write_start(tmp_path, **STARTED)
    (attempt,) = read_attempts(tmp_path)
    assert attempt.number == 1


def test_an_end_without_a_beginning_is_no_attempt(tmp_path):
    write_end(tmp_path, 4, status=0, step=1, reason="done")
    assert read_attempts(tmp_path) == []


def test_attempts_that_begin_at_once_have_numbers_of_their_own(tmp_path):
    """As of two jobs that were submitted for one run at the same moment."""
    with ThreadPoolExecutor(8) as pool:
        jobs = [{**STARTED, "job": str(job)} for job in range(64)]
        numbers = list(pool.map(lambda values: write_start(tmp_path / "run", **values), jobs))
    assert sorted(numbers) == list(range(1, 65))
    found = {attempt.number: attempt.job for attempt in read_attempts(tmp_path / "run")}
    assert [found[number] for number in numbers] == [values["job"] for values in jobs]


def test_an_older_job_with_the_same_number_is_another_one(tmp_path):
    """Also one that was started again less often, and one whose process of this machine had it."""
    for restart, job in [(0, "17"), (2, "17"), (0, "8"), (0, "17"), (1, "17")]:
        write_start(tmp_path, **{**STARTED, "job": job, "restart": restart})
    assert [attempt.number for attempt in attempts_of(tmp_path, "17")] == [4, 5]
    assert [attempt.number for attempt in attempts_of(tmp_path, "8")] == [3]
