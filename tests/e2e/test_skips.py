"""Skipped updates in real runs: schedule and data go on as they should, also after a restart; divergence ends a run."""

import json
import signal
import time

import pytest

from ofa.samples import consumed_rows, read_lines
from tests import processes
from tests.commands import command, overrides
from tests.e2e.test_resume import at_step
from tests.run_files import metrics, model_bytes

STEPS = 150
SPIKY = ("schedule.total_steps=150", "optimizer.spike_ratio=1.1", "log.samples=true", "checkpoint.every=1000")
SPIKES = ("--config", "sparse.json", *overrides(*SPIKY, "evaluate.every=150"))
"""A ratio so low that ordinary gradients are taken for spikes now and then."""


@pytest.fixture(scope="module")
def spiky(project):
    """A run with skipped updates, left alone."""
    processes.script("pretrain.py", *SPIKES, "--run-dir", "skips/alone", cwd=project)
    return project / "skips" / "alone"


def train_lines(folder):
    """Lines of updates."""
    return [line for line in metrics(folder) if "lr" in line]


def test_a_skipped_update_moves_no_schedule_and_loses_no_data(project, spiky):
    """OFA-23, OFA-28: every step has its planned rate; every row is read once an epoch, skipped ones too."""
    lines = train_lines(spiky)
    skipped = lines[-1]["skipped"]
    assert skipped > 0, "nothing was skipped"
    plan = processes.script("pretrain.py", *SPIKES, "--plan", cwd=project).stdout
    planned = [json.loads(line) for line in plan.splitlines()]
    assert [(line["step"], line["lr"]) for line in lines] == [(one["step"], one["lr"]) for one in planned[:STEPS]]
    rows = consumed_rows(spiky / "samples")
    assert len(rows) == 8 * (STEPS + skipped)
    epochs = [sorted(rows[start : start + 120]) for start in range(0, len(rows) - 119, 120)]
    assert epochs == [list(range(120))] * len(epochs) and len(epochs) >= 10
    batches = read_lines(spiky / "samples" / "rank-00000.jsonl")
    assert [line["batch"] for line in batches] == list(range(STEPS + skipped))
    assert sorted({line["step"] for line in batches}) == list(range(STEPS))


@pytest.mark.slow
def test_what_is_usual_and_how_much_was_skipped_is_continued(project, spiky):
    """OFA-29: stopped after the first skips, and continued to the same bytes."""
    folder = project / "skips" / "stopped"
    arguments = (*SPIKES, "--run-dir", str(folder))
    process = processes.start_script("pretrain.py", *arguments, cwd=project, output=project / "skips.out")
    first = next(line["step"] for line in train_lines(spiky) if line["skipped"])
    while not at_step(folder, first)():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    assert train_lines(folder)[-1]["step"] < STEPS - 1
    processes.script("pretrain.py", *arguments, cwd=project)
    assert model_bytes(folder) == model_bytes(spiky)
    assert metrics(folder) == metrics(spiky)
    assert consumed_rows(folder / "samples") == consumed_rows(spiky / "samples")


def test_a_run_that_diverges_stops_after_some_skips_and_keeps_its_checkpoint(project):
    values = overrides("optimizer.max_skipped=2", "checkpoint.every=1", "evaluate.every=1000", "optimizer.lr=1e30")
    answer = command("pretrain.py", "--config", "teacher.json", "--run-dir", "diverged", *values, cwd=project)
    assert answer.status == 1 and "Traceback" not in answer.err
    assert answer.err.count("update skipped, its gradient norm inf is not finite; going on with the next batch") == 2
    (error,) = answer.lines_of_error()
    assert "3 updates in a row were skipped at step" in error and "larger optimizer.max_skipped" in error
    assert (project / "diverged" / "checkpoints" / "latest").is_file()
