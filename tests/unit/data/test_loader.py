"""The loader: what a rank reads at a step, and that nothing but the step decides it."""

import threading
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ofa.data.rows
from ofa.data.loader import Loader, validation_batches
from ofa.data.plan import Plan
from ofa.data.shards import read_record


def plain(step):
    """Totals and micro-batches as comparable Python values."""
    totals, batches = step
    names = batches[0].__dataclass_fields__
    values = [{name: getattr(batch, name) for name in names} for batch in batches]
    return totals, [{n: None if v is None else v.tolist() for n, v in batch.items()} for batch in values]


@pytest.fixture
def corpus(make_corpus):
    """One corpus for all examples of a property."""
    return make_corpus()


def as_rows(batches):
    """One entry for each row: id, input ids, and (column, label) of its predictions and its distilled columns."""
    rows = []
    for batch in batches:
        length = batch.input_ids.shape[1]
        for b in range(len(batch.row_ids)):
            mine = batch.predicted // length == b
            columns = (batch.predicted[mine] % length).tolist()
            distilled = (batch.distilled[batch.distilled // length == b] % length).tolist()
            labels = batch.labels[mine].tolist()
            rows.append((int(batch.row_ids[b]), batch.input_ids[b].tolist(), columns, labels, distilled))
    return rows


def test_masks_change_from_epoch_to_epoch(make_corpus, run_config):
    corpus = make_corpus(rows=32)
    loader = Loader(corpus, run_config(kd="all"))
    first, second = ({} for _ in range(2))
    for epoch, found in ((0, first), (1, second)):
        for step in (2 * epoch, 2 * epoch + 1):
            found |= {row[0]: row[2] for row in as_rows(loader.global_batch(step)[1])}
    assert first.keys() == second.keys() == set(range(32))
    assert all(first[row] != second[row] for row in first)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_global_batches_do_not_depend_on_world_and_micro_size(corpus, run_config, data):
    """OFA-30, the data half: the ranks' micro-batches in order are the same rows, masks and labels."""
    divisors = [1, 2, 3, 4, 6, 12, 24]
    world = data.draw(st.sampled_from(divisors))
    micro = data.draw(st.sampled_from([one for one in divisors if 24 % (one * world) == 0]))
    step = data.draw(st.integers(0, 60))
    reference = Loader(corpus, run_config(micro=24, size=24, kd="sample:0.3")).global_batch(step)
    config = run_config(micro=micro, size=24, kd="sample:0.3")
    steps = [Loader(corpus, config, rank, world).global_batch(step) for rank in range(world)]
    assert all(totals == reference[0] for totals, _ in steps)
    in_order = [batch for turn in zip(*(batches for _, batches in steps), strict=True) for batch in turn]
    assert as_rows(in_order) == as_rows(reference[1])


def test_rows_come_in_the_order_of_the_plan_over_epochs(make_corpus, run_config):
    corpus = make_corpus(rows=41)
    plan = Plan(corpus.split("train"), 7, 3)
    found = [row for _, batches in Loader(corpus, run_config()).batches(0, 10) for row in _ids(batches)]
    assert found == [plan.row(position)[1] for position in range(160)]
    assert sorted(found[:41]) == sorted(found[41:82]) == list(range(41))


def _ids(batches):
    return [row for batch in batches for row in batch.row_ids.tolist()]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_stream_is_the_same_for_any_number_of_workers_and_after_resume(make_corpus, run_config, workers):
    """PERF-22, OFA-28: steps 5 ... 29 of a run that starts at 5 are those of one that started at 0."""
    corpus = make_corpus()
    expected = [plain(step) for step in Loader(corpus, run_config(kd="all")).batches(0, 30)]
    loader = Loader(corpus, run_config(kd="all", workers=workers))
    assert [plain(step) for step in loader.batches(0, 30)] == expected
    assert [plain(step) for step in loader.batches(5, 30)] == expected[5:]


def test_resume_reads_no_more_than_the_windows_of_its_first_step(make_corpus, run_config, monkeypatch):
    """PERF-22: the cost of resuming does not grow with the step."""
    corpus = make_corpus()
    read = []
    monkeypatch.setattr(ofa.data.rows, "read_record", lambda record: read.append(record) or read_record(record))
    for step in (10, 10**9):
        read.clear()
        next(Loader(corpus, run_config()).batches(step))
        assert 0 < len(read) <= 3 * 3


def test_resume_plans_as_little_at_ten_times_the_position(make_corpus, run_config, monkeypatch):
    """PERF-22: within the first epoch, at its end, and at 10 and 100 times these steps the first batch reads a few
    records and plans a few windows of one or two epochs, however many lie before."""
    corpus, counts = make_corpus(), Counter()
    size, rows = 16, 300

    def counting(name):
        compute = getattr(Plan, name)
        monkeypatch.setattr(Plan, name, lambda *args: counts.update([name]) or compute(*args))

    counting("_compute_epoch_order")
    counting("_compute_window_rows")
    monkeypatch.setattr(ofa.data.rows, "read_record", lambda record: counts.update(["read"]) or read_record(record))
    for step in (rows // 2 // size, rows // size):
        for times in (1, 10, 100):
            counts.clear()
            next(Loader(corpus, run_config(size=size)).batches(times * step))
            assert 1 <= counts["_compute_epoch_order"] <= 2, "an epoch's order, and the next one's at its end"
            assert 1 <= counts["_compute_window_rows"] <= 4 < len(corpus.split("train").records) // 3
            assert 1 <= counts["read"] <= 4 * 3


@pytest.mark.parametrize(("size", "workers", "windows"), [(20, 0, 2), (20, 1, 4), (20, 2, 5), (60, 2, 10)])
def test_a_window_is_read_once_and_few_records_stay(make_corpus, run_config, monkeypatch, size, workers, windows):
    """Also where a batch is larger than a window and a thread is slow, so that others are `workers` steps ahead."""
    corpus = make_corpus(rows=600)
    read = []
    monkeypatch.setattr(ofa.data.rows, "read_record", lambda record: read.append(record) or read_record(record))
    loader = Loader(corpus, run_config(size=size, workers=workers))
    make_step, make_batch, this_thread = loader.global_batch, loader._batcher.micro_batch, threading.local()

    def global_batch(step):
        this_thread.waits = workers > 0 and step % 5 == 0
        return make_step(step)

    def micro_batch(epochs, row_ids):
        batch = make_batch(epochs, row_ids)
        if this_thread.waits:
            time.sleep(0.5)
            this_thread.waits = False
        return batch

    monkeypatch.setattr(loader, "global_batch", global_batch)
    monkeypatch.setattr(loader._batcher, "micro_batch", micro_batch)
    for _ in loader.batches(0, 600 // size):
        pass
    assert len(read) == len(set(read)) == len(corpus.split("train").records)
    assert len(loader._batcher._reader._slots) <= 3 * windows < len(read)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [None, 1, 16, 21])
def test_validation_counts_every_row_once_over_all_ranks(make_corpus, run_config, world, rows):
    corpus = make_corpus(pairs=True)
    passes = [Loader(corpus, run_config(size=20 * world), rank, world).validation(rows) for rank in range(world)]
    every = [list(one.batches) for one in passes]
    assert len({len(batches) for batches in every}) == 1, "under ZeRO 3 a forward is a collective call"
    batches = [batch for one, own in zip(passes, every, strict=True) for batch in own[: one.counted]]
    assert sorted(_ids(batches)) == list(range(rows or 23))
    totals = passes[0].totals
    assert all(one.totals == totals for one in passes)
    assert totals.predicted == sum(len(batch.predicted) for batch in batches)
    assert totals.tokens == sum(int((batch.document_ids > 0).sum()) for batch in batches)
    assert totals.pairs == sum(len(batch.pair_labels) for batch in batches)


def test_validation_masks_are_the_same_for_every_pass_seed_and_size(make_corpus, run_config):
    corpus = make_corpus()

    def masks(config, micro):
        batches = Loader(corpus, config).validation(micro_size=micro).batches
        return {
            row: (batch.input_ids[b].tolist(), batch.predicted[batch.predicted // 64 == b].remainder(64).tolist())
            for batch in batches
            for b, row in enumerate(batch.row_ids.tolist())
        }

    first = masks(run_config(), 4)
    assert first == masks(run_config(), 4) == masks(run_config(seed=8), 5) == masks(run_config(workers=2), 23)


def test_validation_needs_no_run(make_corpus, run_config):
    corpus = make_corpus()
    found = validation_batches(corpus, run_config().data, micro_size=8)
    expected = Loader(corpus, run_config()).validation(micro_size=8)
    assert found.totals == expected.totals and plain((0, list(found.batches))) == plain((0, list(expected.batches)))


def test_another_sequence_length_is_refused(make_corpus, run_config):
    with pytest.raises(ValueError, match=r"rows have 64 tokens, data.sequence_length is 128; set it to 64"):
        Loader(make_corpus(), run_config(128))


def test_next_sentence_training_without_pairs_is_refused(make_corpus, run_config):
    with pytest.raises(ValueError, match=r"mode doc_sentences; prepare it with mode segment_pair_nsp, or set"):
        Loader(make_corpus(), run_config(task="mlm_nsp"))


def test_fewer_rows_than_a_batch_are_refused(make_corpus, run_config):
    with pytest.raises(ValueError, match=r"12 training rows do not fill one batch of 16.* at most 12"):
        Loader(make_corpus(rows=12), run_config())


def test_batch_sizes_that_do_not_divide_are_refused(make_corpus, run_config):
    with pytest.raises(ValueError, match="not a multiple"):
        Loader(make_corpus(), run_config(micro=5))


def test_more_validation_rows_than_there_are_are_refused(make_corpus, run_config):
    with pytest.raises(ValueError, match=r"asked for 24 validation rows, the split has 23; leave the number out"):
        Loader(make_corpus(), run_config()).validation(24)


def test_a_row_that_contradicts_the_manifest_is_refused(make_corpus, run_config):
    corpus = make_corpus()
    corpus.split("train").counts[:, 1] -= 1
    with pytest.raises(ValueError, match=r"maskable tokens, the manifest counts \d+; prepare the data again"):
        Loader(corpus, run_config()).global_batch(0)
