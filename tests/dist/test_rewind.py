"""Weights that go back to a checkpoint, in every copy, on real ranks over gloo."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("rewind_worker.py")
CASES = (
    "0 fp32 hard",
    "1 fp32 hard",
    "1 bf16 hard",
    "2 bf16 hard",
    "3 fp32 hard",
    "3 bf16 hard",
    "3 bf16 hard persist",
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each of two ranks found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.ranks(WORKER, *CASES, number=2, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return {case: [of_rank[number] for of_rank in of_ranks] for number, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_every_copy_goes_back_under_the_masks_of_today_and_moments_are_zero(reports, case):
    """OFA-14: weight rewinding at every stage, also with small weights that ZeRO 3 keeps whole."""
    assert [report["wrong"] for report in reports[case]] == [[], []]


@pytest.mark.parametrize("case", CASES)
def test_no_rank_waits_for_one_that_cannot_read(reports, case):
    assert [report["one_cannot_read"] for report in reports[case]] == ["SystemExit", "ValueError: no checkpoint"]
