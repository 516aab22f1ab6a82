"""Masks are one thing on any number of ranks, at every ZeRO stage and after a restart; ranks that differ stop."""

import json
from itertools import product
from pathlib import Path

import pytest

from tests import processes
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY
from tests.marks import asked_for, marked_slow

WORKER = Path(__file__).with_name("agreement_worker.py")
FAULTY = Path(__file__).with_name("disagreement_worker.py")
CASES = ("0 fp32 hard", *(" ".join(case) for case in product("123", ("fp32", "bf16"), ("hard", "retain"))))
QUICK = ("0 fp32 hard", "1 fp32 hard", "1 bf16 retain", "2 fp32 retain", "2 bf16 hard", "3 fp32 hard", "3 bf16 retain")
"""Every stage in every precision and mode, and every precision in every mode."""

each_case = pytest.mark.parametrize("case", marked_slow(CASES, but=QUICK))
WORLDS = (2, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4)))


@pytest.fixture(scope="module", params=WORLDS, ids=lambda number: f"{number} ranks")
def reports(request, tmp_path_factory):
    """What each rank chose in each case that a selected test asks for: {case: [report of rank 0, ...]}."""
    folder = tmp_path_factory.mktemp("ranks")
    return processes.reports(WORKER, *asked_for(request, "case", CASES), number=request.param, cwd=folder)


@each_case
def test_masks_of_every_refresh_are_those_of_sorted_masters(reports, case):
    """PERF-12, OFA-10: from identical masters with ties, on 1, 2 and 4 ranks and at ZeRO 0 to 3, so all of these have
    the same masks; the hash of all bits is compared, at seven refreshes."""
    for report in reports[case]:
        assert report["found"] == report["sorted"]
        assert len(report["sorted"]) == 7 and len(set(report["sorted"].values())) == 5, "the ramp ends at the fifth"


@each_case
def test_a_continued_run_chooses_the_same_masks(reports, case):
    """PERF-12, OFA-29: an engine made from other weights, then loaded from a checkpoint of a refresh step."""
    for report in reports[case]:
        assert len(report["continued"]) == 5
        assert report["continued"].items() <= report["sorted"].items()


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_one_wrong_bit_on_one_rank_stops_all_of_them(tmp_path, number):
    """OFA-10: within the refresh, before a step is made with it; the last checkpoint stays."""
    write_corpus(tmp_path / "data", rows=120)
    pruning = {"sparsity": 0.9, "ramp_end": 12, "end": 18, "frequency": 3}
    config = {**TINY, "batch": {"global_size": 8, "micro_size": 2}, "pruning": pruning, "checkpoint": {"every": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with processes.Group(FAULTY, "config.json", number=number, cwd=tmp_path) as group:
        assert all(status != 0 for status in group.statuses()), group.said()
    words = [(tmp_path / f"words-{rank}.txt").read_text() for rank in range(number)]
    others = "rank 0" if number == 2 else "ranks 0, 1, 2"
    assert len(set(words)) == 1
    assert (
        "different masks of 1 tensors after a refresh, first bert.encoder.layer.0.intermediate.dense.weight" in words[0]
    )
    assert f"dense.weight: {others} against rank {number - 1}. " in words[0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 5, "an update was made with masks that differ"
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000004\n"
    assert not (tmp_path / "run" / "model").exists()
