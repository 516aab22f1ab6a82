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
def errors(tmp_path_factory):
    """The largest error of each rank by case."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.ranks(WORKER, *CASES, number=RANKS, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]
    return {case: [of_rank[case] for of_rank in of_ranks] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_micro_batches_and_ranks_are_added_in_fp32(errors, case):
    """bf16 sums, or a division in bf16 before the sum, would be off by 1e-3 and more."""
    assert 0.0 < max(errors[case]) < 2e-6
