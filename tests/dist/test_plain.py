"""Pruner and lock in a user's own loop under DistributedDataParallel, on real ranks over gloo."""

from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("plain_worker.py")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each rank saw, by number of ranks and case."""
    return {
        number: processes.reports(WORKER, "prune", "lock", number=number, cwd=tmp_path_factory.mktemp("ranks"))
        for number in (1, 2)
    }


@pytest.mark.parametrize("case", ["prune", "lock"])
def test_zeros_are_plus_zero_in_every_copy_and_the_same_on_every_rank(reports, case):
    """OFA-10, OFA-21: weights, both moments; one rank and two choose the same weights."""
    every = [report for number in (1, 2) for report in reports[number][case]]
    assert len(every) == 3 and len({report["mask_hash"] for report in every}) == 1
    for report in every:
        assert list(report["behind"].values()) == [[0, 0, 0], [0, 0, 0]]
    assert case == "lock" or every[0]["zeros"] == {"0.weight": 7662, "2.weight": 7662}  # floor(0.9 * 66 * 129)
