"""Batches of task rows: what they hold, how they are divided, and that nothing but the step decides it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.config import BatchConfig
from ofa.data.task_batches import TaskBatcher, TaskLoader, evaluation_batches
from ofa.data.task_rows import IGNORED, TaskRows
from ofa.data.tasks import TaskError

PAD = 77
KINDS = ("classification", "regression", "tokens", "questions")


def make_rows(count=100, kind="classification", longest=60, seed=0):
    """Random rows; the tokens of a row say which row it is."""
    draw = np.random.default_rng(seed)
    lengths = np.minimum(draw.lognormal(2.5, 0.7, count).astype(np.int64) + 3, longest)
    total = int(lengths.sum())
    labels = {
        "classification": draw.integers(0, 3, count),
        "regression": draw.random(count, dtype=np.float32),
        "questions": draw.integers(0, 3, (count, 2)),
        "tokens": np.where(draw.random(total) < 0.5, IGNORED, draw.integers(0, 5, total)),
    }[kind]
    tokens = np.repeat(np.arange(count) + 100, lengths).astype(np.int32)
    return TaskRows(tokens, draw.integers(0, 2, total).astype(np.int8), lengths, labels, np.arange(count))


def loader(rows, *, kind="classification", size=24, micro=4, **values):
    batch = BatchConfig(global_size=size, micro_size=micro)
    return TaskLoader(rows, kind, PAD, batch, 5, **values)


def plain(step):
    totals, batches = step
    return totals, [[tensor.tolist() for tensor in batch.tensors()] for batch in batches]


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(KINDS), ids=st.lists(st.integers(0, 39), min_size=1, max_size=9))
def test_a_batch_holds_its_rows_and_padding(kind, ids):
    rows = make_rows(40, kind, longest=29)
    batch = TaskBatcher(rows, kind, PAD).batch(np.array(ids))
    longest = int(rows.lengths[ids].max())
    width = batch.input_ids.shape[1]
    assert longest <= width < longest + 8 and width <= rows.lengths.max() and width % 8 in (0, 29 % 8)
    starts = np.cumsum(rows.lengths) - rows.lengths
    for place, row in enumerate(ids):
        length, start = rows.lengths[row], starts[row]
        ends = width - length
        assert batch.input_ids[place].tolist() == [100 + row] * length + [PAD] * ends
        assert batch.attention_mask[place].tolist() == [1] * length + [0] * ends
        assert batch.token_type_ids[place].tolist() == rows.token_types[start : start + length].tolist() + [0] * ends
        if kind == "tokens":
            own = rows.labels[start : start + length].tolist()
            assert batch.labels[place].tolist() == own + [IGNORED] * ends
        else:
            assert torch.equal(batch.labels[place], torch.as_tensor(rows.labels[row]))
    assert batch.row_ids.tolist() == ids
    expected = torch.float32 if kind == "regression" else torch.int64
    assert batch.labels.dtype == expected
    assert {t.dtype for t in (batch.input_ids, batch.attention_mask, batch.token_type_ids)} == {torch.int64}


@pytest.mark.parametrize("kind", KINDS)
def test_totals_are_what_the_batches_contain(kind):
    source = loader(make_rows(kind=kind), kind=kind)
    for step in range(8):
        totals, batches = source.global_batch(step)
        assert totals == source.totals(step)
        assert totals.tokens == sum(int(batch.attention_mask.sum()) for batch in batches)
        labelled = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        assert totals.counted == (labelled if kind == "tokens" else 24)


def test_rows_without_labels_make_batches_without_labels():
    for kind in KINDS:
        batch = TaskBatcher(replace(make_rows(kind=kind), labels=None), kind, PAD).batch(np.array([0, 1]))
        assert batch.labels is None and batch.to("cpu").input_ids.shape[0] == 2


@settings(deadline=None, max_examples=40)
@given(data=st.data(), step=st.integers(0, 60))
def test_global_batches_do_not_depend_on_world_and_micro_size(data, step):
    """OFA-30, the data half: the ranks' micro-batches in order are the same rows."""
    rows = make_rows()
    divisors = [1, 2, 3, 4, 6, 12, 24]
    world = data.draw(st.sampled_from(divisors))
    micro = data.draw(st.sampled_from([one for one in divisors if 24 % (one * world) == 0]))
    totals, (reference,) = loader(rows, micro=24).global_batch(step)
    steps = [loader(rows, micro=micro, rank=rank, world_size=world).global_batch(step) for rank in range(world)]
    assert all(one == totals for one, _ in steps)
    assert {len(batches) for _, batches in steps} == {24 // (micro * world)}
    turns = [batch for turn in zip(*(batches for _, batches in steps), strict=True) for batch in turn]
    assert all(len(batch.row_ids) == micro for batch in turns)
    assert [row for batch in turns for row in batch.row_ids.tolist()] == reference.row_ids.tolist()


def test_micro_batches_are_of_like_length():
    rows = make_rows(2400)
    source = loader(rows, micro=4, size=24)
    for step in range(20):
        _, batches = source.global_batch(step)
        lengths = [rows.lengths[batch.row_ids.numpy()] for batch in batches]
        assert all(one.min() >= other.max() for one, other in zip(lengths, lengths[1:], strict=False))


def test_an_epoch_is_every_row_once_and_its_length_is_known():
    source = loader(make_rows(100), size=24)
    assert source.total_steps(3.0) == 13
    found = [row for step in range(25) for batch in source.global_batch(step)[1] for row in batch.row_ids.tolist()]
    assert sorted(found) == sorted(list(range(100)) * 6)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_stream_is_the_same_for_any_number_of_workers_and_after_resume(workers):
    """OFA-29, the data half."""
    rows = make_rows(kind="tokens")
    expected = [plain(loader(rows, kind="tokens").global_batch(step)) for step in range(20)]
    source = loader(rows, kind="tokens", workers=workers)
    assert [plain(step) for step in source.batches(0, 20)] == expected
    assert [plain(step) for step in source.batches(5, 20)] == expected[5:]
    endless = source.batches(7)
    assert plain(next(endless)) == expected[7]
    endless.close()


def test_batch_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="not a multiple"):
        loader(make_rows(), micro=5)


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 50), micro=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_counts_every_row_once_over_all_ranks(count, micro, world):
    rows = make_rows(count)
    passes = [
        evaluation_batches(rows, "classification", PAD, micro_size=micro, rank=rank, world_size=world)
        for rank in range(world)
    ]
    every = [list(one.batches) for one in passes]
    assert len({len(batches) for batches in every}) == 1, "under ZeRO 3 a forward is a collective call"
    counted = [batch for one, own in zip(passes, every, strict=True) for batch in own[: one.counted]]
    assert sorted(row for batch in counted for row in batch.row_ids.tolist()) == list(range(count))
    assert all(len(batch.row_ids) <= micro for batch in counted)
    in_order = [batch for turn in zip(*every, strict=True) for batch in turn][: len(counted)]
    lengths = np.concatenate([rows.lengths[batch.row_ids.numpy()] for batch in in_order])
    assert np.all(np.diff(lengths) <= 0), "the longest first"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_batches_arrive_on_the_device():
    """The copy on the side stream gives the values of the CPU batches."""
    rows = make_rows()
    found = list(loader(rows, device="cuda").batches(0, 6))
    assert all(tensor.is_cuda for _, batches in found for batch in batches for tensor in batch.tensors())
    assert [plain(step) for step in found] == [plain(step) for step in loader(rows).batches(0, 6)]


def test_rows_in_which_nothing_counts_are_refused():
    """Length grouping would put them into one batch, whose loss divides by nothing."""
    labels = np.array([1, IGNORED, IGNORED, IGNORED, IGNORED, 2], dtype=np.int64)
    one = np.ones(6, dtype=np.int32)
    rows = TaskRows(one, np.zeros(6, dtype=np.int8), np.array([2, 2, 2]), labels, np.arange(3))
    with pytest.raises(TaskError, match="1 training rows have no word with a label and a token, first number 1"):
        TaskLoader(rows, "tokens", 0, BatchConfig(global_size=1, micro_size=1), seed=0)
