"""Selection on real ranks over gloo: the same masks everywhere, and little that travels."""

import json
from pathlib import Path

import pytest

from tests import processes
from tests.dist.ranking_worker import SHAPES, WEIGHTS, mask_hash
from tests.selection import keep_by_sorting, make_groups

WORKER = Path(__file__).with_name("ranking_worker.py")
SPANS = ("flat", "each", "odd", "last")
RANKED = (
    "unstructured tensor 0.9 smooth",
    "unstructured global 0.9 smooth",
    "unstructured global 0.5 tied",
    "2:4 tensor 0.5 smooth",
    "2:4 global 0.3 tied",
    "4x1 tensor 0.9 smooth",
    "1x4 global 0.8 tied",
)
CASES = [f"{kind} {ranked}" for kind in SPANS for ranked in RANKED]
BROKEN = "flat unstructured tensor 0.9 broken"
COUNTED = ("profiled flat unstructured tensor 0.9 smooth", "profiled odd 4x1 tensor 0.9 smooth")
MEBIBYTES_2 = 2 * 2**20


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["1 rank", "2 ranks", "3 ranks"])
def reports(request, tmp_path_factory):
    """What each rank saw in each case: {case: [report of rank 0, ...]}."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = [*CASES, *COUNTED, BROKEN]
    processes.ranks(WORKER, *cases, number=request.param, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(request.param)]
    return {case: [reports[i] for reports in of_ranks] for i, case in enumerate(cases)}


@pytest.mark.parametrize("ranked", RANKED)
def test_every_rank_of_every_world_has_the_masks_of_one_sorted_list(reports, ranked):
    """OFA-6, OFA-10, PERF-12"""
    pattern, allocation, sparsity, weights_of = ranked.split()
    weights = WEIGHTS[weights_of]()
    groups = make_groups(weights, pattern, float(sparsity), allocation == "global")
    expected = mask_hash(keep_by_sorting(groups, weights, [float(sparsity)] * len(groups)))
    found = {report["hash"] for kind in SPANS for report in reports[f"{kind} {ranked}"]}
    assert found == {expected}


@pytest.mark.parametrize("case", CASES)
def test_a_selection_sums_at_most_two_megabytes(reports, case):
    """PERF-9: four sums, and a fifth where a span's end cuts a unit; none with one rank."""
    cuts = case.startswith("odd") and "unstructured" not in case
    for report in reports[case]:
        assert sum(report["sums"]) <= MEBIBYTES_2
        if len(reports[case]) == 1:
            assert report["sums"] == []
        elif cuts or "unstructured" in case:
            assert len(report["sums"]) == (5 if cuts else 4)


@pytest.mark.parametrize(("case", "sums"), [(COUNTED[0], 4), (COUNTED[1], 5)])
def test_nothing_else_travels_but_one_bit_a_weight(reports, case, sums):
    """PERF-9, counted by torch's profiler."""
    ranks = len(reports[case])
    for report in reports[case]:
        if ranks == 1:
            assert report["collectives"] == []
            continue
        assert report["collectives"] == ["all_gather"] + ["all_reduce"] * sums
        assert len(report["sums"]) == sums
        if sums == 4:  # ranks that complete cut strips hold more than their share of so small a scope
            assert report["gathered"][0] <= sum(shape.numel() for shape in SHAPES.values()) / ranks / 8 + 64


def test_a_weight_that_is_not_finite_stops_every_rank(reports):
    assert all("not finite: the run has diverged" in report["error"] for report in reports[BROKEN])
