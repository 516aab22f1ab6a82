"""What a rank holds of a model in training, counted, against what `ofa.cost.rank_memory` says."""

import json
from pathlib import Path

import pytest

from ofa.config import RunConfig, load
from ofa.cost import Size, rank_memory
from tests import processes

WORKER = Path(__file__).with_name("memory_worker.py")
CASES = ["0 fp32", "1 bf16"]
"""Other stages have buckets of their own, of 25 M elements whatever the model."""


@pytest.fixture(scope="module", params=[1, 2], ids=lambda number: f"{number} ranks")
def counted(request, tmp_path_factory):
    """(ranks, {case: [parameters, bytes]} of each rank)."""
    folder = tmp_path_factory.mktemp("memory")
    processes.ranks(WORKER, *CASES, number=request.param, cwd=folder)
    return request.param, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_a_rank_holds_what_the_plan_says(counted, case):
    """ZeRO 1 in bf16: weights, gradients, fp32 sums of gradients, and a share of masters and moments."""
    ranks, of_ranks = counted
    stage, precision = case.split()
    config = load(RunConfig, "tiny/teacher.json", [f"engine.zero_stage={stage}", f"engine.precision={precision}"])
    for of_rank in of_ranks:
        parameters, found = of_rank[case]
        assert found == pytest.approx(rank_memory(config, Size(parameters, 0), ranks), rel=0.01)
