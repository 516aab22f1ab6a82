"""Zeros in every copy of a weight, on real ranks over gloo."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("mask_worker.py")
CASES = ("1 fp32 hard", "1 fp32 retain", "1 bf16 hard", "1 bf16 retain", "0 fp32 hard")
ZEROS = int(0.9 * 66 * 129)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def reports(request, tmp_path_factory):
    """What each rank saw in each case: {case: [report of rank 0, ...]}."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.ranks(WORKER, *CASES, number=request.param, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(request.param)]
    return {case: [reports[i] for reports in of_ranks] for i, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_zeros_are_exact_in_live_weights_masters_and_moments(reports, case):
    """OFA-21, OFA-22: ZeRO 0 and 1 with accumulation, clipping and weight decay; sizes that do not divide."""
    for report in reports[case]:
        assert report["moved"]
        assert report["alive_outside_mask"] == 0
        assert report["negative_zeros"] == 0
        assert report["zeros"] == {"0.weight": ZEROS, "2.weight": ZEROS}
        assert all(not any(copies) for copies in report["behind_the_zeros"].values())


@pytest.mark.parametrize("case", CASES)
def test_masks_are_identical_on_all_ranks(reports, case):
    """OFA-10"""
    assert len({report["mask_hash"] for report in reports[case]}) == 1


@pytest.mark.parametrize("case", CASES)
def test_the_first_masters_equal_the_given_weights_bit_for_bit(reports, case):
    """OFA-3: DeepSpeed would make bf16 masters from rounded weights."""
    assert all(report["first_masters_are_exact"] for report in reports[case])
