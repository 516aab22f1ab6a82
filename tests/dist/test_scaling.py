"""The work of a global batch is divided by the number of ranks, and what they tell each other does not grow."""

import json
from pathlib import Path

import pytest

from ofa.config import ModelConfig
from ofa.models.build import build_model
from tests import processes
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("scaling_worker.py")
CASES = {"accumulated": "1 2", "at once": "1 {share}", "partitioned": "3 {share}"}
"""ZeRO 1 with micro-batches of 2 rows, so that more ranks make fewer of them; ZeRO 1 and 3 with one micro-batch a
rank."""


@pytest.fixture(scope="module")
def reports_of(tmp_path_factory):
    """reports_of(ranks) -> {case: [report of rank 0, ...]}, run once. Every row is one segment of full length, so that
    all rows have the same number of tokens and predictions."""
    place = tmp_path_factory.mktemp("scaling")
    write_corpus(place / "data", rows=60, fill=None)
    build_model(ModelConfig(**TINY["model"]), seed=1).save_pretrained(place / "teacher")
    found = {}

    def run(number):
        if number not in found:
            cases = [case.format(share=8 // number) for case in CASES.values()]
            folder = place / f"{number}"
            folder.mkdir()
            for name in ("data", "teacher"):
                (folder / name).symlink_to(place / name)
            processes.ranks(WORKER, *cases, number=number, cwd=folder)
            of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(number)]
            found[number] = {name: [one[case] for one in of_ranks] for name, case in zip(CASES, cases, strict=True)}
        return found[number]

    return run


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_flops_of_a_rank_are_those_of_one_rank_divided(reports_of, case, number):
    """PERF-28: exactly, for student, teacher and head; what is counted are the matrix products and attention of real
    updates. They divide exactly where rows have equal counts; otherwise ranks differ by their rows' predictions."""
    (alone,) = reports_of(1)[case]
    assert alone["flops"] > 0 and alone["predicted"] % 8 == 0
    assert [number * report["flops"] for report in reports_of(number)[case]] == [alone["flops"]] * number


@pytest.mark.parametrize("case", CASES)
def test_collectives_of_a_step_are_as_many_on_four_ranks_as_on_two(reports_of, case):
    """PERF-28"""
    two, four = reports_of(2)[case], reports_of(4)[case]
    assert sum(two[0]["collectives"].values()) > 0
    assert all(report["collectives"] == two[0]["collectives"] for report in [*two, *four])


@pytest.mark.parametrize("number", [1, 2, 4])
def test_ranks_validate_every_row_once(reports_of, number):
    """OFA-16 for scores: 23 rows, 4 at a time, do not divide; each is counted once, and so is each prediction."""
    for of_ranks in reports_of(number).values():
        assert sorted(row for report in of_ranks for row in report["rows"]) == list(range(23))
        assert {sum(report["seen"] for report in of_ranks)} == {report["validated"] for report in of_ranks}


@pytest.mark.parametrize("number", [2, 4])
def test_scores_do_not_depend_on_the_number_of_ranks(reports_of, number):
    """OFA-16 for scores: after four updates, whose own rounding is in it."""
    for case, of_ranks in reports_of(number).items():
        (alone,) = reports_of(1)[case]
        assert {report["validated"] for report in of_ranks} == {alone["validated"]}
        assert all(report["score"] == of_ranks[0]["score"] for report in of_ranks)
        assert of_ranks[0]["score"] == pytest.approx(alone["score"], rel=1e-6)
