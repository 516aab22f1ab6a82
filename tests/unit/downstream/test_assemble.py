"""What a fine-tuning run remembers: the best score, and which checkpoints it needs."""

import math
from types import SimpleNamespace

import pytest

from ofa.config import FinetuneConfig
from ofa.data.tasks import TASKS
from ofa.downstream.assemble import FinetuningRun
from ofa.journal import NotFinite
from ofa.run_folder import RunFolder

NOT_ASKED = ("module", "engine", "teacher", "pruner", "journal", "progress", "guard", "loader")
PRUNING = {"sparsity": 0.5, "ramp_end": 20, "end": 25, "frequency": 5}


@pytest.fixture
def run(tmp_path):
    """run(**sections) -> a run of 60 steps on MRPC, scored every 20; parts that scores have nothing to do with are
    None."""

    def make(**sections):
        config = FinetuneConfig.model_validate(
            {
                "model": {"init": "x"},
                "task": {"name": "mrpc"},
                "batch": {"global_size": 8, "micro_size": 4},
                "optimizer": {"lr": 1e-4},
                "checkpoint": {"every": 50},
                **sections,
            }
        )
        return FinetuningRun(
            name="test",
            config=config,
            folder=RunFolder(tmp_path),
            data_fingerprint="data",
            recipe=SimpleNamespace(total_steps=60),
            parents=[],
            validate_every=20,
            data=SimpleNamespace(task=TASKS["mrpc"]),
            patterns={},
            **dict.fromkeys(NOT_ASKED),
        )

    return make


def note(run, *values):
    """Scores after every 20 steps, from step 20."""
    for number, value in enumerate(values, start=1):
        run.take_note(20 * number, {"validation_loss": 0.5, "f1": value, "accuracy": 1 - value})


def test_the_best_is_the_highest_of_the_leading_metric_and_the_first_of_equals(run):
    """MRPC's tables lead with F1; its accuracy goes the other way here."""
    one = run()
    assert one.best is None and one.needed_steps() == set()
    note(one, 0.5, 0.8, 0.8)
    assert one.best == (40, 0.8) and one.needed_steps() == {40}


def test_a_model_before_its_first_update_is_never_the_best(run):
    one = run()
    one.take_note(0, {"validation_loss": 0.5, "f1": 0.99})
    assert one.best is None


def test_scores_before_the_last_masks_do_not_count(run):
    """Step 25 is the last refresh: what is exported has the zeros that were asked for."""
    one = run(lock=False, pruning=PRUNING)
    note(one, 0.9)
    assert one.best is None
    note(one, 0.9, 0.6, 0.7)
    assert one.best == (60, 0.7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_no_best(run, loss):
    one = run()
    note(one, 0.5)
    with pytest.raises(NotFinite, match="validation loss of step 40 is (nan|inf): the run has diverged"):
        one.take_note(40, {"validation_loss": loss, "f1": 0.9})
    assert one.best == (20, 0.5)


def test_every_scored_step_is_saved_so_that_it_can_be_exported(run):
    one = run()
    assert [step for step in range(1, 61) if one.saves_at(step)] == [20, 40, 50, 60]
    assert [step for step in range(1, 61) if one.validates_at(step)] == [20, 40, 60]


def test_scores_are_shown_by_the_tasks_metrics(run):
    words = run().in_words({"validation_loss": 0.25, "accuracy": 0.5, "f1": 0.75, "other": 1.0})
    assert words == "validation loss 0.2500, f1 0.7500, accuracy 0.5000"
