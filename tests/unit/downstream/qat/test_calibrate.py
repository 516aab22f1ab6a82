"""First ranges: which rows are read, and what their ranges come to."""

import pytest
import torch

from ofa.config import BatchConfig, QuantizationConfig, TaskObjectiveConfig
from ofa.data.task_batches import TaskLoader
from ofa.downstream.qat.assemble import quantised
from ofa.downstream.qat.calibrate import calibrate
from ofa.downstream.qat.training import QatTraining
from tests.task_parts import PAD, random_rows, small_model

KIND, SIZE, SPLIT = "classification", 8, 24
BATCH = BatchConfig(global_size=SIZE, micro_size=4)


def begun():
    """A model in training mode, with dropout, and its loader of three global batches an epoch."""
    model = small_model("bert", hidden_dropout_prob=0.5)
    quantisers = quantised(model, QuantizationConfig(), "cpu")
    module = QatTraining(model, KIND, TaskObjectiveConfig(ce_weight=1.0, kd_weight=0.0), quantisers)
    return module.train(), TaskLoader(random_rows(KIND, SPLIT), KIND, PAD, BATCH, seed=5)


def ranges_of(number):
    """Of one global batch alone, in evaluation mode."""
    module, loader = begun()
    quantisers = module.eval().quantisers
    with torch.no_grad(), quantisers.calibrating():
        for batch in loader.global_batch(number)[1]:
            module(batch)
    quantisers.ranges.commit(1.0)
    return quantisers.ranges.values


@pytest.mark.parametrize(("rows", "batches"), [(1, 1), (8, 1), (9, 2), (24, 3), (1000, 3)])
def test_first_ranges_are_the_mean_over_the_batches_that_training_begins_with(rows, batches):
    """OFA-34: each batch counts alike; rows are rounded up to whole batches, up to an epoch; no dropout."""
    module, loader = begun()
    calibrate(module, loader, rows=rows, global_size=SIZE, split_rows=SPLIT)
    each = torch.stack([ranges_of(number) for number in range(batches)])
    ranges = module.quantisers.ranges
    torch.testing.assert_close(ranges.values, each.mean(dim=0), rtol=1e-5, atol=1e-5)
    assert ranges.calibrated and module.training and module.quantisers.quantising
    if batches > 1:
        assert not torch.allclose(ranges.values, each[-1], rtol=1e-2, atol=1e-2)
