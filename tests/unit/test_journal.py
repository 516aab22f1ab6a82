"""Metrics lines: what they count, and when they end a run."""

import time

import pytest
import torch

from ofa.journal import Journal, MaskedShare, Meter, NotFinite
from ofa.metrics import MetricsLog, read_metrics
from ofa.progress import Progress
from ofa.pruning.pruner import MaskChurn
from ofa.recipe import Knobs

COUNTED, TOKENS = 10, 100
KNOBS = Knobs(step=3, lr=0.1, sparsity=0.5, update_mask=True, last_update=False)


@pytest.fixture
def parts(tmp_path):
    """A journal and what it was made of."""
    masked = MaskedShare({"a": 4, "pooler": 4}, ["a"], model_size=20)
    meter = Meter(flops_per_token=2.0, peak_flops=1000.0)
    log = MetricsLog(tmp_path, tensorboard=False)
    progress = Progress(10, active=False)
    return Journal(log, progress, meter, masked, accuracy="train_masked_accuracy"), tmp_path / "metrics.jsonl"


def terms(loss=2.0):
    """What a step gives."""
    return {"loss": torch.tensor(loss), "masked_lm": torch.tensor(2.5), "correct": torch.tensor(4.0)}


def test_a_line_holds_the_schedule_the_terms_and_the_counted_masks(parts):
    journal, path = parts
    journal.masked.recount({"a": torch.tensor([True, False, False, True]), "pooler": torch.tensor([False] * 4)})
    journal.meter.count(TOKENS)
    journal.log(KNOBS, terms(), COUNTED, churn=MaskChurn(6, 1), grad_norm=0.7, skipped=2)
    line = read_metrics(path)[0]
    assert (line["encoder_sparsity"], line["scope_sparsity"], line["model_sparsity"]) == (0.5, 0.75, 0.3)
    assert (line["step"], line["lr"], line["loss"], line["target_sparsity"]) == (3, 0.1, 2.0, 0.5)
    assert (line["dropped"], line["revived"], line["train_masked_accuracy"]) == (6, 1, 0.4)
    assert line["mfu"] == pytest.approx(line["tokens_per_second"] * 2.0 / 1000.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(parts, loss):
    journal, path = parts
    with pytest.raises(NotFinite, match="step 3.*diverged"):
        journal.log(KNOBS, terms(loss), COUNTED, churn=None, grad_norm=1.0, skipped=0)
    assert not path.exists()


def test_pauses_do_not_count_as_training_time():
    meter = Meter(1.0, 1.0)
    meter.read()
    with meter.pause():
        time.sleep(0.2)
    meter.count(TOKENS)
    assert meter.read()["tokens_per_second"] > 100 / 0.15


def test_weights_without_a_mask_live(parts):
    """A pooler that was drawn is not locked and counts as dense."""
    journal, _ = parts
    journal.masked.recount({"a": torch.tensor([True, False, False, True])})
    counted = journal.masked.counted()
    assert (counted["encoder_sparsity"], counted["scope_sparsity"], counted["model_sparsity"]) == (0.5, 0.25, 0.1)
