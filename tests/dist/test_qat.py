"""Training in 8 bits on real ranks over gloo: one set of ranges, whatever the ranks, the division and the stage."""

from pathlib import Path

import pytest

from tests import processes
from tests.dist.qat_worker import BEGIN, FREEZE, STEPS

WORKER = Path(__file__).with_name("qat_worker.py")
ON_TWO = ("0 fp32 4", "1 fp32 4", "2 fp32 4", "3 fp32 4", "3 bf16 4", "1 fp32 2")
ON_ONE = ("1 fp32 8", "1 fp32 4")
FIRST = "bert.encoder.layer.0.attention.self.query.input"
"""The place before the first matrix product, whose bits depend on no batch size."""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """{case: [report of each of two ranks]}"""
    return processes.reports(WORKER, *ON_TWO, number=2, cwd=tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """{case: [report of the only rank]}"""
    return processes.reports(WORKER, *ON_ONE, number=1, cwd=tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("case", ON_TWO)
def test_ranks_have_equal_ranges_to_the_bit(two, case):
    """OFA-34: also the widest weights, at every stage."""
    first, second = two[case]
    assert first["ranges"] == second["ranges"] and first["widest"] == second["widest"]
    assert min(first["widest"].values()) > 0


def flat(ranges):
    """Lows, then highs."""
    return [value for side in ranges for value in side]


@pytest.mark.parametrize("case", ON_TWO)
def test_ranges_are_those_of_the_global_batch_however_it_is_divided(one, two, case):
    """OFA-34: 1x8, 1x2x4, 2x4, 2x2x2: at equal weights the first place to the bit and all others to 1e-5 in fp32; then
    as far as the weights are equal, whose last bits may turn a rounding over."""
    whole, alone, parts = (found[0]["ranges"] for found in (one["1 fp32 8"], one["1 fp32 4"], two[case]))
    place = one["1 fp32 8"][0]["names"].index(FIRST)
    for divided in (alone, parts):
        if divided is parts and "bf16" in case:
            assert flat(divided[BEGIN]) == pytest.approx(flat(whole[BEGIN]), rel=0.1, abs=0.1)
            continue
        assert [side[place] for side in divided[BEGIN]] == [side[place] for side in whole[BEGIN]]
        assert flat(divided[BEGIN]) == pytest.approx(flat(whole[BEGIN]), rel=1e-5, abs=1e-5)
        assert flat(divided[-1]) == pytest.approx(flat(whole[-1]), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("case", ON_TWO)
def test_ranges_follow_applied_updates_alone_from_begin_to_freeze(two, case):
    """OFA-34: `begin_step` counts optimizer steps; frozen ranges stay; a skipped update moves none; state returns."""
    for report in two[case]:
        assert report["calibrated"] == [step >= BEGIN for step in range(STEPS)]
        ranges = report["ranges"]
        moving = ranges[BEGIN:FREEZE]
        assert all(before != after for before, after in zip(moving, moving[1:], strict=False))
        assert all(frozen == ranges[FREEZE - 1] for frozen in ranges[FREEZE:])
        assert not report["applied"] and not report["moved_by_a_skip"] and not report["loaded_differs"]


@pytest.mark.parametrize("case", ON_TWO)
def test_zeros_stay(two, case):
    """OFA-37: in the masters."""
    assert [report["alive"] for report in two[case]] == [0, 0]
