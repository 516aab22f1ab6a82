"""Gates and multipliers outside the engine, on real ranks over gloo at every ZeRO stage."""

from itertools import product
from pathlib import Path

import pytest

from tests import processes
from tests.marks import slow

WORKER = Path(__file__).with_name("multiplier_worker.py")
STAGES = {"fp32": "0123", "bf16": "123"}
ACCUMULATIONS = {1: "18", 2: "14"}
LONG = ("1 1 fp32 long", "3 1 fp32 long", "2 2 bf16 long")


def cases(ranks):
    """1 x 8 and 8 x 1 on one rank, 1 x 4 and 4 x 1 on each of two."""
    settings = product(ACCUMULATIONS[ranks], STAGES)
    return [f"{stage} {count} {precision}" for count, precision in settings for stage in STAGES[precision]]


EVEN, ODD = slice(0, None, 2), slice(1, None, 2)
"""Half of the cases each: every stage in every precision once, with and without accumulation in turn."""


@pytest.mark.parametrize(("ranks", "half"), [(1, EVEN), (2, ODD), slow(1, ODD), slow(2, EVEN)])
def test_the_gradient_of_gates_does_not_depend_on_how_a_batch_is_divided(ranks, half, tmp_path):
    """COFI-18: ranks, accumulation and ZeRO stage, task and Lagrangian together, against plain torch on one process."""
    for case, of_ranks in processes.reports(WORKER, *cases(ranks)[half], number=ranks, cwd=tmp_path).items():
        tolerance = 1e-6 if "fp32" in case else 5e-2
        for report in of_ranks:
            size = max(map(abs, report["oracle"]))
            worst = max(abs(a - b) for a, b in zip(report["first"], report["oracle"], strict=True))
            assert worst / size < tolerance, case


@pytest.fixture(scope="module")
def long_reports(tmp_path_factory):
    """Of 100 updates on two ranks."""
    return processes.reports(WORKER, *LONG, number=2, cwd=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", LONG)
def test_gates_and_multipliers_are_equal_on_all_ranks_after_every_step(long_reports, case):
    """COFI-17: gradients and values, to the bit, through 100 steps, though ranks draw other masks."""
    first, second = long_reports[case]
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == 100, "nothing has moved"
    assert first["masks"] != second["masks"], "ranks drew the same masks"


@pytest.mark.parametrize("case", LONG)
def test_gates_go_to_the_target_in_fp32(long_reports, case):
    """COFI-4: whatever the engine's precision."""
    report = long_reports[case][0]
    assert report["sparsity"] > 0.6, "it began at 0.3"
    assert report["dtypes"] == ["torch.float32"] * 2
