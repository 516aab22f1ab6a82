"""Micro-batches: what they hold, and that the totals say so."""

import numpy as np
import pytest
import torch

from ofa.data.loader import Loader
from ofa.data.shards import read_record

KD = ("masked", "all", "sample:0.4", "sample:0.01")


def stored_rows(corpus, split):
    """Tokens and segment bounds (within the row) of every row, straight from the shards."""
    found = []
    for record in corpus.split(split).records:
        rows = read_record(record)
        for start, end in zip(rows.rows[:-1].tolist(), rows.rows[1:].tolist(), strict=True):
            bounds = [int(bound) - start for bound in rows.segments if start <= bound <= end]
            found.append((rows.tokens[start:end].astype(np.int64), bounds))
    return found


def test_unmasked_a_batch_holds_the_rows_of_the_shards(make_corpus, run_config):
    corpus = make_corpus()
    stored = stored_rows(corpus, "train")
    for _, batches in Loader(corpus, run_config()).batches(0, 6):
        for batch in batches:
            tokens = batch.input_ids.clone()
            tokens.view(-1)[batch.predicted] = batch.labels
            for row, row_id in zip(tokens, batch.row_ids.tolist(), strict=True):
                expected = stored[row_id][0]
                assert row[: len(expected)].tolist() == expected.tolist()
                assert (row[len(expected) :] == corpus.special["pad"]).all()


def test_positions_restart_and_documents_are_numbered_in_each_segment(make_corpus, run_config):
    corpus = make_corpus()
    stored = stored_rows(corpus, "train")
    _, batches = Loader(corpus, run_config()).global_batch(2)
    for batch in batches:
        for b, row_id in enumerate(batch.row_ids.tolist()):
            lengths = np.diff(stored[row_id][1])
            padding = [0] * (64 - sum(lengths))
            assert batch.position_ids[b].tolist() == [p for n in lengths for p in range(n)] + padding
            assert batch.document_ids[b].tolist() == [k + 1 for k, n in enumerate(lengths) for _ in range(n)] + padding


def test_pairs_bring_token_types_starts_and_labels(make_corpus, run_config):
    corpus = make_corpus(pairs=True)
    _, batches = Loader(corpus, run_config(task="mlm_nsp")).global_batch(1)
    for batch in batches:
        tokens = batch.input_ids.view(-1).clone()
        tokens[batch.predicted] = batch.labels
        cls = (tokens == corpus.special["cls"]).nonzero().ravel()
        assert torch.equal(batch.pair_starts, cls) and len(batch.pair_labels) == len(cls)
        assert set(batch.pair_labels.tolist()) == {0, 1}
        types, documents = batch.token_type_ids.view(-1), batch.document_ids.view(-1)
        rises = (types[1:] > types[:-1]).nonzero().ravel()
        assert len(rises) == len(cls) and (tokens[rises] == corpus.special["sep"]).all()
        assert (types[cls] == 0).all() and (types[documents == 0] == 0).all()


def test_pair_labels_and_sentences_are_those_of_the_shards(make_corpus, run_config):
    corpus = make_corpus(pairs=True, shards=1, record_tokens=10**6)
    rows = read_record(corpus.split("train").records[0])
    _, batches = Loader(corpus, run_config()).global_batch(0)
    for batch in batches:
        expected_labels, expected_ones = [], 0
        for row_id in batch.row_ids.tolist():
            start, end = rows.rows[row_id : row_id + 2]
            mine = (rows.segments[:-1] >= start) & (rows.segments[:-1] < end)
            expected_labels += rows.labels[mine].tolist()
            expected_ones += int((rows.segments[1:][mine].astype(int) - rows.second[mine]).sum())
        assert batch.pair_labels.tolist() == expected_labels
        assert int(batch.token_type_ids.sum()) == expected_ones


def test_without_pairs_there_is_nothing_of_them(make_corpus, run_config):
    totals, batches = Loader(make_corpus(), run_config()).global_batch(0)
    assert totals.pairs == 0
    assert (batches[0].token_type_ids, batches[0].pair_starts, batches[0].pair_labels) == (None, None, None)


def test_a_row_has_a_fixed_number_of_predictions(make_corpus, run_config):
    """OFA-27: 15 % of its maskable tokens, rounded."""
    corpus = make_corpus()
    counts = corpus.split("train").counts
    for _, batches in Loader(corpus, run_config()).batches(0, 4):
        for batch in batches:
            found = np.bincount((batch.predicted // 64).numpy(), minlength=4)
            assert found.tolist() == [round(0.15 * int(counts[row, 1])) for row in batch.row_ids]


def test_full_rows_bring_no_padding_and_others_only_their_own(make_corpus, run_config):
    """PERF-14: processed tokens minus real tokens is what the packer left; full rows leave none."""
    for fill, most in ((0.99, 0.1), (0.5, 0.5)):
        corpus = make_corpus(rows=64, fill=fill)
        for totals, batches in Loader(corpus, run_config()).batches(0, 4):
            processed = sum(batch.input_ids.numel() for batch in batches)
            padded = sum(int((batch.document_ids == 0).sum()) for batch in batches)
            assert processed == 16 * 64 and padded == processed - totals.tokens
            assert padded <= most * processed


@pytest.mark.parametrize("kd", KD)
@pytest.mark.parametrize("whole_word_masking", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_totals_equal_what_the_micro_batches_of_all_ranks_contain(
    make_corpus, run_config, kd, whole_word_masking, pairs
):
    corpus = make_corpus(pairs=pairs)
    config = run_config(kd=kd, whole_word_masking=whole_word_masking)
    loaders = [Loader(corpus, config, rank, 2) for rank in range(2)]
    for step in (0, 7, 18, 19):
        batches = [batch for loader in loaders for batch in loader.global_batch(step)[1]]
        totals = loaders[0].global_batch(step)[0]
        assert totals == loaders[1].totals(step)
        assert totals.predicted == sum(len(batch.predicted) for batch in batches)
        assert totals.tokens == sum(int((batch.document_ids > 0).sum()) for batch in batches)
        distilled = [batch.predicted if batch.distilled is None else batch.distilled for batch in batches]
        assert totals.distilled == sum(map(len, distilled))
        assert totals.pairs == sum(len(batch.pair_starts) if pairs else 0 for batch in batches)
        for batch, positions in zip(batches, distilled, strict=True):
            assert torch.isin(batch.predicted, positions).all()
            assert (batch.document_ids.view(-1)[positions] > 0).all()


def test_distilled_positions_follow_the_setting(make_corpus, run_config):
    corpus = make_corpus()
    found = {kd: Loader(corpus, run_config(kd=kd)).global_batch(0)[0] for kd in KD}
    assert found["masked"].distilled == found["masked"].predicted == found["sample:0.01"].distilled
    assert found["all"].distilled == found["all"].tokens
    assert abs(found["sample:0.4"].distilled - 0.4 * found["all"].tokens) <= 0.5 * 16
    assert Loader(corpus, run_config()).global_batch(0)[1][0].distilled is None
