"""Selection on real ranks over gloo: the same masks everywhere, and little that travels."""

import json
from pathlib import Path

import pytest

from ofa.pruning.pattern import make_pattern
from tests import processes
from tests.dist.ranking_worker import SHAPES, WEIGHTS, mask_hash
from tests.selection import equal_spans, keep_by_sorting, make_groups, weights_that_travel

WORKER = Path(__file__).with_name("ranking_worker.py")
SPANS = ("flat", "each", "odd", "outer", "last")
RANKED = (
    "unstructured tensor 0.9 smooth",
    "unstructured global 0.9 smooth",
    "unstructured global 0.5 tied",
    "2:4 tensor 0.5 smooth",
    "2:4 global 0.3 tied",
    "4x1 tensor 0.9 smooth",
    "1x4 global 0.8 tied",
    "4x4 global 0.6 smooth",
    "8x8 tensor 0.75 smooth",
    "8x8 global 0.5 tied",
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
    """PERF-9: in four sums, wherever spans end; none with one rank."""
    for report in reports[case]:
        assert sum(report["sums"]) <= MEBIBYTES_2
        assert len(report["sums"]) == (4 if len(reports[case]) > 1 else 0)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_cut_units_go_to_their_owner_only_and_in_one_exchange_or_none(reports, case):
    """PERF-9: bytes of every rank; those that give and get nothing join where any other does."""
    kind, pattern, *_ = case.split()
    ranks = len(reports[case])
    strips = {name: make_pattern(pattern).strip(shape) for name, shape in SHAPES.items()}
    sent, received = weights_that_travel(SHAPES, strips, equal_spans(kind, SHAPES, ranks))
    for report, gives, gets in zip(reports[case], sent, received, strict=True):
        assert report["exchanges"] == ([[4 * gives, 4 * gets]] if any(sent) else [])


def test_cases_have_cut_units_whole_ones_and_ranks_that_hold_nothing(reports):
    """Else the test above would pass without its subject."""
    ranks = len(next(iter(reports.values())))
    exchanges = {case: [report["exchanges"] for report in reports[case]] for case in CASES}
    assert all(found == [[]] * ranks for case, found in exchanges.items() if ranks == 1 or "last" in case)
    for pattern in ("4x1 tensor 0.9 smooth", "4x4 global 0.6 smooth", "8x8 global 0.5 tied"):
        for kind in ("odd", "outer"):
            assert ranks == 1 or all(found != [] for found in exchanges[f"{kind} {pattern}"])
    if ranks == 3:
        assert exchanges["outer 8x8 global 0.5 tied"][1] == [[0, 0]]


@pytest.mark.parametrize(("case", "exchanges"), [(COUNTED[0], 0), (COUNTED[1], 1)])
def test_nothing_else_travels_but_one_bit_a_weight(reports, case, exchanges):
    """PERF-9, counted by torch's profiler."""
    ranks = len(reports[case])
    for report in reports[case]:
        if ranks == 1:
            assert report["collectives"] == []
            continue
        assert report["collectives"] == ["all_gather"] + ["all_reduce"] * 4 + ["all_to_all"] * exchanges
        assert len(report["sums"]) == 4 and len(report["exchanges"]) == exchanges
        if not exchanges:  # ranks that complete cut strips hold more than their share of so small a scope
            assert report["gathered"][0] <= sum(shape.numel() for shape in SHAPES.values()) / ranks / 8 + 64


def test_a_weight_that_is_not_finite_stops_every_rank(reports):
    assert all("not finite: the run has diverged" in report["error"] for report in reports[BROKEN])
