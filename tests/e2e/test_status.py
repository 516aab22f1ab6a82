"""The table of runs, beside one real run that is brought into every state that it can have without a queue."""

import json
import signal
import time

import pytest

from tests import processes
from tests.commands import command, overrides

STEPS = 150


@pytest.fixture
def place(project):
    """Where the runs of this file lie, relative to the project."""
    (project / "status").mkdir()
    return "status"


def seen(project, place):
    """The one row, as the command tells it."""
    answer = command("status.py", place, "--json", cwd=project)
    assert answer.status == 0 and answer.err == "", answer
    (row,) = json.loads(answer.out)
    assert row["run"] == f"{place}/run"
    return row


def started(project, place, *pairs):
    """The run, begun or continued."""
    values = overrides(f"schedule.total_steps={STEPS}", "log.every=1", "checkpoint.every=20", *pairs)
    arguments = ("--config", "teacher.json", "--run-dir", f"{place}/run", *values)
    return processes.start_script("pretrain.py", *arguments, cwd=project, output=project / "status.out")


def wait_until(project, place, reached):
    """The first row that is as wanted."""
    began = time.monotonic()
    while True:
        row = seen(project, place) if (project / place / "run").is_dir() else None
        if row is not None and reached(row):
            return row
        assert time.monotonic() - began < processes.TIMEOUT, (project / "status.out").read_text()
        time.sleep(0.05)


def test_a_run_is_seen_in_each_of_its_states(project, place):
    """Running with a rate and an end in sight; stopped and saved; killed; failed with its words; finished."""
    process = started(project, place)
    try:
        row = wait_until(project, place, lambda row: row["step"] is not None and row["step"] > 3 and row["eta"])
        assert row["state"] == "running" and row["total"] == STEPS and row["tokens_per_second"] > 0
        assert 0 < row["loss"] < 10 and row["sparsity"] == 0 and row["error"] is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(processes.TIMEOUT) == 75
        stopped = seen(project, place)
        assert stopped["state"] == "stopped and saved" and stopped["step"] == stopped["saved_step"] < STEPS
        assert stopped["eta"] is None

        process = started(project, place)
        row = wait_until(project, place, lambda row: row["state"] == "running" and row["step"] > stopped["step"])
        process.kill()
        process.wait(processes.TIMEOUT)
        assert seen(project, place)["state"] == "killed"

        (project / place / "run" / "metrics.jsonl").rename(project / "kept.jsonl")
        (project / place / "run" / "metrics.jsonl").mkdir()  # no run can write there
        process = started(project, place)
        assert process.wait(processes.TIMEOUT) == 1
        (project / place / "run" / "metrics.jsonl").rmdir()
        (project / "kept.jsonl").rename(project / place / "run" / "metrics.jsonl")
        failed = seen(project, place)
        assert failed["state"] == "failed" and "IsADirectoryError" in failed["error"], failed

        process = started(project, place)
        assert process.wait(processes.TIMEOUT) == 0, (project / "status.out").read_text()
        finished = seen(project, place)
        assert (finished["state"], finished["step"], finished["error"]) == ("finished", STEPS, None)
    finally:
        process.kill()
