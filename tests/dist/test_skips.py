"""Skipped updates leave nothing behind, at every stage, on real ranks over gloo."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("skip_worker.py")
CASES = (
    "0 fp32 hard",
    "1 fp32 retain",
    "1 bf16 retain",
    "2 fp32 hard",
    "2 bf16 retain",
    "3 fp32 retain",
    "3 bf16 hard",
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each of two ranks saw, by case and by who decides."""
    folder = tmp_path_factory.mktemp("skips")
    processes.ranks(WORKER, *CASES, number=2, cwd=folder)
    return [json.loads((folder / f"skips-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("decides", ["alone", "judged"])
@pytest.mark.parametrize("case", CASES)
def test_an_update_that_one_rank_spoils_is_skipped_on_all_and_leaves_nothing(reports, case, decides):
    """OFA-23: a gradient that is not a number (`alone`: nobody asks for norms), and a spike (`judged`). Masters,
    moments, masks, step counts and live weights stay, and the run goes on to the bytes of one that never met
    the batch."""
    for report in (of_rank[f"{case} {decides}"] for of_rank in reports):
        assert report["applied"] == [False] * (2 if decides == "judged" else 1)
        assert report["moved"] == [] and report["live"]
        assert report["differs"] == [] and report["settings"] and report["goes_on"]
