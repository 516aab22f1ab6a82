"""Work ahead of its consumer: bounded, in order, stoppable, and loud when it fails."""

import threading
import time

import pytest
import torch

from ofa.data.ahead import prepare_ahead
from ofa.data.loader import Loader
from ofa.data.shards import ShardError


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_damaged_record_is_reported_to_the_consumer(make_corpus, run_config, workers):
    corpus = make_corpus(rows=32, shards=1, record_tokens=10**6)
    record = corpus.split("train").records[0]
    with record.shard.open("r+b") as file:
        file.seek(record.offset + 3000)
        file.write(b"\xff\xfe\xfd\xfc")
    with pytest.raises(ShardError, match="damaged"):
        next(Loader(corpus, run_config(workers=workers)).batches(0))
    assert not _threads()


def test_an_exception_comes_at_its_place():
    def make(index):
        if index == 3:
            raise ValueError("three")
        return index

    values = prepare_ahead(make, range(10), workers=2)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(values)
    assert not _threads()


def test_closing_stops_the_threads(make_corpus, run_config):
    steps = Loader(make_corpus(), run_config(workers=3)).batches(0)
    next(steps)
    assert _threads()
    steps.close()
    assert not _threads()


def test_threads_run_ahead_but_not_without_bound():
    made = []
    values = prepare_ahead(lambda index: made.append(index) or index, iter(range(1000)), workers=2)
    next(values)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2, 3]
    values.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_batches_arrive_on_the_device(make_corpus, run_config):
    """The copy on the side stream gives the values of the CPU batches."""
    corpus = make_corpus(pairs=True)
    expected = list(Loader(corpus, run_config()).batches(0, 6))
    found = list(Loader(corpus, run_config(workers=1), device="cuda").batches(0, 6))
    for (totals, batches), (expected_totals, expected_batches) in zip(found, expected, strict=True):
        assert totals == expected_totals
        for batch, other in zip(batches, expected_batches, strict=True):
            assert all(tensor.is_cuda for tensor in batch.tensors())
            assert all(torch.equal(a.cpu(), b) for a, b in zip(batch.tensors(), other.tensors(), strict=True))
