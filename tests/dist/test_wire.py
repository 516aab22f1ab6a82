"""Bytes that a step sends from each rank, counted in collectives and held against formulas.

On the wire an all-reduce of B bytes costs 2 B (N - 1) / N a rank, and an all-gather or reduce-scatter of B bytes in all
B (N - 1) / N, whatever algorithm is taken. The least for ZeRO 1 in bf16 is a reduce-scatter of gradients and an
all-gather of weights, 2 bytes each: 4 P (N - 1) / N. That is sent with `communication_data_type` bf16; with our fp32
sums it is 6 P (N - 1) / N. DeepSpeed's bf16 optimizer by itself all-reduces gradients, which is 6 and 10.
"""

import json
from math import ceil
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("wire_worker.py")
GROUPS = (2 * 66 * 129, 129 + 66)
"""Parameters of the net's two optimizer groups."""

BYTES = {"fp32": 4, "default": 4, "bf16": 2}
CASES = [
    f"{stage} {precision} {communication} {accumulation}"
    for stage in "123"
    for precision in ("fp32", "bf16")
    for communication in (("default", "fp32", "bf16") if stage == "1" else ("default", "bf16"))
    for accumulation in (1, 3)
]
NORM = 4
"""Bytes of the gradient's norm."""

SCALARS = 16
"""Bytes at most that norm and overflow checks send, whatever the model."""


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda number: f"{number} ranks"
)
def counted(request, tmp_path_factory):
    """(ranks, {case: {name: [count, bytes]}}) as every rank counted them."""
    folder = tmp_path_factory.mktemp("wire")
    processes.ranks(WORKER, *CASES, number=request.param, cwd=folder)
    of_ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(request.param)]
    assert all(one == of_ranks[0] for one in of_ranks)
    return request.param, of_ranks[0]


def padded(number):
    """Elements of all groups, each padded to two elements for every rank."""
    return sum(2 * number * ceil(size / (2 * number)) for size in GROUPS)


def on_the_wire(number, collectives):
    """Bytes from one rank, times N / (N - 1)."""
    shares = {"c10d::allreduce_": 2, "c10d::_allgather_base_": 1, "c10d::_reduce_scatter_base_": 1}
    assert collectives.keys() <= shares.keys()
    return sum(shares[name] * size for name, (_, size) in collectives.items())


@pytest.mark.parametrize("communication", ["default", "fp32", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_zero_1_in_bf16_sums_gradients_once_and_gathers_weights_once(counted, communication, accumulation):
    """PERF-25: exactly one reduce-scatter of gradients and one all-gather of bf16 weights a group, however many
    micro-batches, and the norm: 6 P (N - 1) / N bytes with fp32 sums, and the criterion's 4 P (N - 1) / N with bf16
    sums."""
    number, cases = counted
    found = cases[f"1 bf16 {communication} {accumulation}"]
    size, sent = padded(number), BYTES[communication]
    scattered, gathered = found["c10d::_reduce_scatter_base_"], found["c10d::_allgather_base_"]
    assert len(found) == 3 and found["c10d::allreduce_"] == [1, NORM]
    assert scattered == [len(GROUPS), sent * size] and gathered == [len(GROUPS), 2 * size]
    assert on_the_wire(number, found) - 2 * NORM == (sent + 2) * size
    assert size <= 1.002 * sum(GROUPS), "padding is what is above the formula"
    if communication == "bf16":
        assert on_the_wire(number, found) <= 1.02 * 4 * sum(GROUPS)


@pytest.mark.parametrize("communication", ["default", "bf16"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_zero_1_in_fp32_sends_the_same_way(counted, communication, accumulation):
    """PERF-25's formula with weights of 4 bytes."""
    number, cases = counted
    found = cases[f"1 fp32 {communication} {accumulation}"]
    sums, gathers = found["c10d::allreduce_"], found["c10d::_allgather_base_"]
    assert found.keys() == {"c10d::allreduce_", "c10d::_allgather_base_"} and gathers == [2, 4 * padded(number)]
    assert 0 <= sums[1] - BYTES[communication] * sum(GROUPS) <= SCALARS and sums[0] == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("communication", ["default", "bf16"])
def test_what_zero_1_sends_does_not_depend_on_accumulation(counted, precision, communication):
    """PERF-25"""
    _, cases = counted
    assert cases[f"1 {precision} {communication} 3"] == cases[f"1 {precision} {communication} 1"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("communication", ["default", "bf16"])
def test_zero_2_and_3_send_gradients_of_every_micro_batch(counted, precision, communication):
    """PERF-25 is a promise of ZeRO 1 only: where no rank holds all gradients they travel after each micro-batch."""
    _, cases = counted
    once, thrice = (
        cases[f"2 {precision} {communication} {accumulation}"]["c10d::allreduce_"] for accumulation in (1, 3)
    )
    gradients = BYTES[communication] * sum(GROUPS)
    assert 0 <= once[1] - gradients <= SCALARS and 0 <= thrice[1] - 3 * gradients <= SCALARS
    once, thrice = (cases[f"3 {precision} {communication} {accumulation}"] for accumulation in (1, 3))
    for name in ("c10d::_reduce_scatter_base_", "c10d::_allgather_base_"):
        assert thrice[name] == [3 * one for one in once[name]]
