"""What pruning adds to what ranks tell each other: nothing in an ordinary step, a few small sums in a refresh."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("collectives_worker.py")
CASES = ("0 fp32", "1 fp32", "1 bf16", "2 fp32", "2 bf16", "3 fp32", "3 bf16")


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """By case: collectives of a dense and of a pruned run, as rank 0 of two counted them."""
    folder = tmp_path_factory.mktemp("collectives")
    processes.ranks(WORKER, *CASES, number=2, cwd=folder)
    return dict(zip(CASES, json.loads((folder / "collectives-0.json").read_text()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_an_ordinary_step_has_the_collectives_of_a_dense_one(counted, case):
    """PERF-9: the same names, counts and bytes."""
    dense, pruned = counted[case]["dense"], counted[case]["pruned"]
    assert pruned["ordinary"] == dense["ordinary"]
    assert sum(count for count, _ in dense["ordinary"].values()) > 0


@pytest.mark.parametrize("case", CASES)
def test_deepspeeds_own_log_of_an_ordinary_step_is_that_of_a_dense_one(counted, case):
    """PERF-9, counted with DeepSpeed's logger: the same operations, counts and sizes of messages; and the log has as
    many collectives as torch has started."""
    dense, pruned = counted[case]["dense"], counted[case]["pruned"]
    assert pruned["logged"] == dense["logged"]
    operations = sum(count for sizes in dense["logged"].values() for count in sizes.values())
    assert operations == sum(count for count, _ in dense["ordinary"].values()) > 0


@pytest.mark.parametrize("case", CASES)
def test_a_refresh_adds_four_small_sums_and_gathers_of_bits_and_digests(counted, case):
    """PERF-9: three histograms and the ties in all-reduces; the masks at one bit a weight, and 32 bytes a tensor to
    compare them."""
    assert counted[case]["dense"]["refresh"] == {}
    refresh = counted[case]["pruned"]["refresh"]
    assert set(refresh) == {"c10d::allreduce_", "c10d::allgather_"}
    sums, gathers = refresh["c10d::allreduce_"], refresh["c10d::allgather_"]
    assert sums[0] == 4 and sums[1] <= 2_000_000
    assert gathers[0] == 2 and gathers[1] <= 2 * 66 * 129 / 8 + 16 + 2 * 32
