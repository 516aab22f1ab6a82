"""Every row of the data is trained on once an epoch, by one rank or two, left alone or killed and continued."""

import json
import signal

import pytest

from ofa.data.plan import Plan
from ofa.data.shards import Corpus
from ofa.samples import consumed_rows, read_lines
from tests import processes
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY
from tests.e2e.test_resume import at_step
from tests.run_files import metrics

ROWS = 41
"""So that epochs begin within global batches of 8, and within micro-batches."""

STEPS = 24
CONFIG = {**TINY, "batch": {"global_size": 8, "micro_size": 2}, "log": {"every": 1, "samples": True}}
RUN = ("--config", "config.json")


def on_two(place, folder):
    """Two ranks, without a launcher."""
    program = processes.CHECKOUT / "launch" / "pretrain.py"
    return processes.Group(program, *RUN, "--run-dir", str(folder), number=2, cwd=place)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and the config, and the run of one rank that nobody stopped."""
    folder = tmp_path_factory.mktemp("samples")
    write_corpus(folder / "data", rows=ROWS)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    processes.script("pretrain.py", *RUN, "--run-dir", "alone", cwd=folder)
    return folder


def check_epochs(rows):
    """Each row once in every whole pass, and none twice in the last, which is not whole."""
    passes = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    assert len(rows) == 8 * STEPS and len(passes) == 5
    assert all(sorted(one) == list(range(ROWS)) for one in passes[:-1])
    assert len(set(passes[-1])) == len(passes[-1]) == 8 * STEPS - 4 * ROWS
    assert len({tuple(one) for one in passes}) == 5, "every epoch has an order of its own"


def test_one_rank_trains_on_every_row_once_an_epoch_in_the_order_of_the_plan(place):
    """OFA-28"""
    rows = consumed_rows(place / "alone" / "samples")
    check_epochs(rows)
    plan = Plan(Corpus.open(place / "data").split("train"), TINY.get("seed", 42), TINY["data"]["shuffle_window"])
    assert rows == [plan.row(position)[1] for position in range(8 * STEPS)]


def test_two_ranks_killed_in_an_epoch_and_continued_train_on_the_same_rows(place):
    """OFA-28, OFA-13: SIGKILL between two checkpoints, in the middle of the third epoch; lines of updates that were
    lost are gone, none is there twice, and every update has the rate that it has in the run left alone."""
    folder = place / "killed"
    group = on_two(place, folder)
    group.wait_for(at_step(folder, 12))
    for process in group.processes:
        process.send_signal(signal.SIGKILL)
    assert group.statuses() == [-signal.SIGKILL] * 2
    kept = int((folder / "checkpoints" / "latest").read_text().removeprefix("step-"))
    before = [read_lines(folder / "samples" / f"rank-{rank:05d}.jsonl") for rank in range(2)]
    assert all(len(lines) >= kept == 10 for lines in before), "a line that the checkpoint counts on was lost"
    group = on_two(place, folder)
    assert group.statuses() == [0, 0], group.said()
    after = [read_lines(folder / "samples" / f"rank-{rank:05d}.jsonl") for rank in range(2)]
    assert all([line["step"] for line in lines] == list(range(STEPS)) for lines in after)
    assert [lines[:kept] for lines in after] == [lines[:kept] for lines in before]
    rows = consumed_rows(folder / "samples")
    check_epochs(rows)
    assert rows == consumed_rows(place / "alone" / "samples")
    rates = [[line["lr"] for line in metrics(place / name) if "lr" in line] for name in ("killed", "alone")]
    assert rates[0] == rates[1] and len(set(rates[0])) > STEPS / 2, "OFA-13"


@pytest.mark.slow
def test_two_ranks_stopped_in_an_epoch_and_continued_train_on_the_same_rows(place):
    """OFA-28, OFA-29: by a stop file that was there from the beginning, and once more by another."""
    folder = place / "stopped"
    folder.mkdir()
    for _ in range(2):
        (folder / "stop").touch()
        group = on_two(place, folder)
        assert group.statuses() == [75, 75], group.said()
        steps = int((folder / "checkpoints" / "latest").read_text().removeprefix("step-"))
        assert len(consumed_rows(folder / "samples")) == 8 * steps
    group = on_two(place, folder)
    assert group.statuses() == [0, 0], group.said()
    assert consumed_rows(folder / "samples") == consumed_rows(place / "alone" / "samples")


@pytest.mark.slow
def test_the_log_may_be_switched_on_in_the_middle_and_changes_nothing(place):
    """One rank, continued from a checkpoint of its own, with the log switched on."""
    arguments = (*RUN, "--run-dir", "later", "--set", "checkpoint.every=15", "--set", "log.samples=false")
    (place / "later").mkdir()
    (place / "later" / "stop").touch()
    done = processes.script("pretrain.py", *arguments, cwd=place, check=False)
    assert done.returncode == 75 and not (place / "later" / "samples").exists()
    stopped_at = int((place / "later" / "checkpoints" / "latest").read_text().removeprefix("step-"))
    processes.script("pretrain.py", *arguments[:-1], "log.samples=true", cwd=place)
    alone = consumed_rows(place / "alone" / "samples")
    assert consumed_rows(place / "later" / "samples") == alone[8 * stopped_at :]
    assert metrics(place / "later") == metrics(place / "alone")
