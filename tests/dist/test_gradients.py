"""The gradient of a global batch on three ranks, a number by which bf16 cannot be divided exactly."""

import json
from itertools import product
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("gradient_worker.py")
CASES = ("0 fp32", *(" ".join(case) for case in product("123", ("fp32", "bf16"))))
RANKS = 3


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each rank found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.ranks(WORKER, *CASES, number=RANKS, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
    return {case: [of_rank[case] for of_rank in of_ranks] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_micro_batches_and_ranks_are_added_in_fp32(reports, case):
    """bf16 sums, or a division in bf16 before the sum, would be off by 1e-3 and more."""
    assert 0.0 < max(report["error"] for report in reports[case]) < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_mean_over_the_global_batch(reports, case):
    """OFA-16: at every stage, accumulated, against plain torch."""
    tolerance = 1e-5 if "fp32" in case else 1e-2
    assert [report["size"] for report in reports[case]] == [pytest.approx(1.0, rel=tolerance)] * RANKS
