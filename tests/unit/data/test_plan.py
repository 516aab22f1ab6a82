"""The data plan: every row once in an epoch, order a pure function of (seed, epoch, position)."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.config import BatchConfig
from ofa.data.plan import Plan, accumulation, rank_positions
from ofa.data.shards import Split


def split(shards):
    """A split whose shards have records of the given numbers of rows; nothing is on disk."""
    entries = []
    for number, records in enumerate(shards):
        counts = np.ones((sum(records), 3), "<u4")
        entries.append(
            {
                "name": f"shard-{number:05d}.tar",
                "rows": sum(records),
                "tokens": sum(records),
                "segments": sum(records),
                "counts": base64.b64encode(zlib.compress(counts.tobytes())).decode(),
                "records": [{"offset": 0, "size": 0, "rows": rows, "crc32": 0} for rows in records],
            }
        )
    return Split(Path("nowhere"), entries)


def epoch_of(plan, epoch):
    positions = np.arange(epoch * plan.total_rows, (epoch + 1) * plan.total_rows)
    epochs, row_ids = plan.rows(positions)
    assert (epochs == epoch).all()
    return row_ids


SHARDS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6)


@given(shards=SHARDS, seed=st.integers(0, 10**9), window=st.integers(1, 8), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_row_once(shards, seed, window, epoch):
    """OFA-28: whatever shards, window, seed and epoch are."""
    plan = Plan(split(shards), seed, window)
    assert sorted(epoch_of(plan, epoch).tolist()) == list(range(sum(map(sum, shards))))


@given(shards=SHARDS, seed=st.integers(0, 10**9), window=st.integers(1, 8))
def test_a_window_is_a_permutation_of_consecutive_records(shards, seed, window):
    """Rows move only within windows of records, and whole shards are permuted: reads are large."""
    parts = split(shards)
    first_rows = np.array([record.first_row for record in parts.records])
    records = np.searchsorted(first_rows, epoch_of(Plan(parts, seed, window), 0), side="right") - 1
    windows = []
    while len(records):
        inside = list(dict.fromkeys(records.tolist()))[:window]
        size = sum(parts.records[record].rows for record in inside)
        assert set(records[:size].tolist()) == set(inside) and not set(inside) & set(records[size:].tolist())
        windows += [sorted(inside)]
        records = records[size:]
    for shard in {record.shard for record in parts.records}:
        places = [
            (number, record)
            for number, inside in enumerate(windows)
            for record in inside
            if parts.records[record].shard == shard
        ]
        assert [record for _, record in places] == sorted(record for _, record in places)
        between = range(places[0][0] + 1, places[-1][0])
        assert all(parts.records[record].shard == shard for number in between for record in windows[number])


@settings(max_examples=50)
@given(shards=SHARDS, positions=st.lists(st.integers(0, 2000), min_size=1, max_size=30))
def test_a_position_gives_the_same_row_whatever_else_is_asked(shards, positions):
    parts = split(shards)
    epochs, row_ids = Plan(parts, 3, 2).rows(np.array(positions))
    alone = [Plan(parts, 3, 2).row(position) for position in positions]
    assert list(zip(epochs.tolist(), row_ids.tolist(), strict=True)) == alone


def test_epochs_and_seeds_have_different_orders():
    parts = split([[50, 50], [50, 50], [50, 50]])
    orders = [epoch_of(Plan(parts, seed, 2), epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(range(300)) not in orders


def test_shards_are_permuted_from_epoch_to_epoch():
    plan = Plan(split([[10]] * 20), 0, 1)
    first = [epoch_of(plan, epoch)[0] // 10 for epoch in range(30)]
    assert len(set(first)) > 8


def test_a_wider_window_mixes_more():
    parts = split([[10] * 16])
    distances = [np.abs(epoch_of(Plan(parts, 0, window), 0) - np.arange(160)).mean() for window in (1, 4, 16)]
    assert distances[0] < distances[1] < distances[2]


def test_the_order_of_this_version_is_kept():
    """A resumed run of a later version must read the same rows; a change here breaks every checkpoint."""
    assert epoch_of(Plan(split([[3, 2], [4], [2, 2]]), 42, 2), 1).tolist() == [5, 9, 7, 8, 10, 6, 1, 12, 11, 2, 0, 3, 4]


def test_the_number_of_micro_batches_is_derived():
    assert accumulation(BatchConfig(global_size=256, micro_size=16), world_size=4) == 4


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"global_size to 240 or 264, or batch.micro_size 4 or 8") as error:
        accumulation(BatchConfig(global_size=256, micro_size=6), world_size=4)
    assert "256 is not a multiple of micro_size 6 * world size 4 = 24" in str(error.value)


def test_a_global_batch_below_one_round_names_only_sizes_that_exist():
    with pytest.raises(ValueError, match=r"set batch.global_size to 32$"):
        accumulation(BatchConfig(global_size=9, micro_size=16), world_size=2)


@given(world=st.integers(1, 6), micro=st.integers(1, 5), rounds=st.integers(1, 4), step=st.integers(0, 10**9))
def test_ranks_share_a_global_batch_without_gap_or_overlap(world, micro, rounds, step):
    batch = BatchConfig(global_size=world * micro * rounds, micro_size=micro)
    shares = [rank_positions(step, batch=batch, rank=rank, world_size=world) for rank in range(world)]
    in_order = np.stack(shares, axis=1).ravel()
    start = step * batch.global_size
    assert np.array_equal(in_order, np.arange(start, start + batch.global_size))
