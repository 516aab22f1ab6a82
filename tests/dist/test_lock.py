"""The lock in every copy of a weight, on real ranks over gloo."""

from itertools import product
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("lock_worker.py")
CASES = ("0 fp32", *(" ".join(case) for case in product("123", ("fp32", "bf16"))), "3 fp32 persist", "3 bf16 persist")


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def reports(request, tmp_path_factory):
    """What each rank saw in each case: {case: [report of rank 0, ...]}."""
    return processes.reports(WORKER, *CASES, number=request.param, cwd=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_locked_zeros_are_plus_zero_in_every_copy_and_the_rest_moves(reports, case):
    """OFA-21, OFA-22: live weight inside every forward, master, moments and saved file; ZeRO 0 to 3 with accumulation,
    clipping and weight decay, from zeros of either sign; sizes that do not divide."""
    for report in reports[case]:
        assert len(report["behind"]) == 6 and not any(report["behind"].values())
        assert report["alive_in_a_forward"] == report["negative_zeros"] == report["in_the_file"] == 0
        assert all(0.85 < zeros / (66 * 129) < 0.95 for zeros in report["zeros"].values())
        assert report["kept_has_moved"]


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_brings_back_the_same_copies_and_their_zeros_stay(reports, case):
    """OFA-23, OFA-25: resume."""
    for report in reports[case]:
        assert report["loaded_differs"] == []
        assert len(report["behind_later"]) == 6 and not any(report["behind_later"].values())


@pytest.mark.parametrize("case", CASES)
def test_a_skipped_update_revives_nothing(reports, case):
    """OFA-23: a gradient that is not a number, in one place of one rank's last micro-batch."""
    for report in reports[case]:
        assert not report["applied"] and report["moved_by_a_skip"] == []


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_norm_is_that_of_masked_gradients(reports, case):
    """OFA-24: over the global batch, against plain torch."""
    for report in reports[case]:
        norms = report["grad_norms"]
        assert norms["engine"] == pytest.approx(norms["masked"], rel=1e-4 if "fp32" in case else 2e-2)
        assert norms["dense"] > 1.1 * norms["masked"], "the masks make no difference here"


def test_masks_are_the_same_on_all_ranks_and_at_every_stage(reports):
    """OFA-10"""
    assert len({report["mask_hash"] for of_case in reports.values() for report in of_case}) == 1
