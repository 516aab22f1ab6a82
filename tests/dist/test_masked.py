"""Training under masks that differ between ranks, on real ranks over gloo."""

import math
from pathlib import Path

import pytest
import torch

from tests import processes

WORKER = Path(__file__).with_name("masked_worker.py")
CASES = ("1 fp32", "2 fp32", "3 fp32", "3 bf16")
RANKS, MICRO_BATCHES = 2, 40


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each of two ranks saw in each case."""
    return processes.reports(WORKER, *CASES, number=RANKS, cwd=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_is_dead_on_one_rank_only_stops_nobody(reports, case):
    """COFI-24: 20 steps of two micro-batches; on the last rank the layer gives its input, to the bit, in each of them,
    on the other in none."""
    found = [of_rank["engine"] for of_rank in reports[case]]
    assert [one["same"] for one in found] == [0, MICRO_BATCHES]
    assert all(len(one["losses"]) == MICRO_BATCHES and all(map(math.isfinite, one["losses"])) for one in found)


@pytest.mark.parametrize("case", CASES)
def test_an_engine_trains_under_masks_as_plain_torch_does(reports, case):
    """COFI-24: each rank's losses, to 1e-5 (measured 5e-7), and the gradient of its gates, which no engine holds:
    that of the rank's share of the global mean, times what ZeRO 3 divides by later (`Engine.loss_scale`)."""
    for of_rank in reports[case]:
        engine, plain = of_rank["engine"], of_rank["plain"]
        assert engine["losses"] == pytest.approx(plain["losses"], rel=0.1 if "bf16" in case else 1e-5)
        found, expected = (torch.tensor(one["gate_gradient"]) for one in (engine, plain))
        expected = expected * (RANKS if case[0] == "3" else 1)
        assert float((found - expected).norm() / expected.norm()) < (0.1 if "bf16" in case else 1e-4)
    first, second = (of_rank["engine"]["losses"] for of_rank in reports[case])
    assert not set(first) & set(second)
