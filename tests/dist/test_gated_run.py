"""What an assembled CoFi run gives its gates, and what it takes from stage to stage, on real ranks over gloo at every
ZeRO stage: the parts are held to their facts elsewhere, here how they are put together."""

import json
from pathlib import Path

import pytest

from tests import processes
from tests.tiny_tasks import write_project

WORKER = Path(__file__).with_name("gated_run_worker.py")
CASES = {
    1: ("0 8 fp32", "1 4 fp32", "2 2 fp32 hidden"),
    2: ("0 2 fp32", "1 1 fp32", "2 4 bf16", "3 2 fp32 hidden"),
}
"""By number of ranks: ZeRO stage, micro-batch of a global batch of 8 rows, precision."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each rank saw, by number of ranks and case."""
    project, found = write_project(tmp_path_factory.mktemp("gated")), {}
    for number, cases in CASES.items():
        runs = project / f"runs-{number}"
        runs.mkdir()
        processes.ranks(WORKER, runs, *cases, number=number, cwd=project)
        of_ranks = [json.loads((runs / f"rank-{rank}.json").read_text()) for rank in range(number)]
        found |= {(number, case): [report[place] for report in of_ranks] for place, case in enumerate(cases)}
    return found


each_case = pytest.mark.parametrize(("number", "case"), [(number, case) for number in CASES for case in CASES[number]])


@each_case
def test_gates_get_the_gradient_of_task_layers_and_lagrangian_once(reports, number, case):
    """COFI-17, 18: as plain torch has it for the whole global batch, at the first update and, with multipliers that
    pull, at the second; a batch that was skipped between them has left nothing."""
    for report in reports[number, case]:
        assert report["skipped"] == 1
        for pair in report["gradients"]:
            size = max(map(abs, pair["plain"]))
            worst = max(abs(a - b) for a, b in zip(pair["found"], pair["plain"], strict=True))
            assert size > 1e-3 and worst / size < (1e-5 if "fp32" in case else 5e-2)


@each_case
def test_where_pruning_begins_the_optimizer_of_the_weights_starts_anew(reports, number, case):
    for report in reports[number, case]:
        assert report["restarted"] == [True, False]


@each_case
def test_the_small_model_goes_on_with_the_map_between_layers_as_it_was_trained(reports, number, case):
    for report in reports[number, case]:
        layers = report["layers"]
        assert layers["moved"] > 1e-4 and layers["kept"]
        assert (layers["hidden"] < 32) == ("hidden" in case)
