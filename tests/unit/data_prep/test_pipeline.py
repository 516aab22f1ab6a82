"""The whole preparation on invented text, with real worker processes."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import zstandard

from data_prep.documents import DataPrepError
from data_prep.pipeline import finished
from data_prep.workers import Workers
from ofa.data.shards import Corpus, read_record


def documents_of(folder: Path) -> list[dict]:
    """What the documents' files hold."""
    found = []
    for path in sorted((folder / "documents").iterdir()):
        with path.open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            found += [json.loads(line) for line in lines]
    return found


@pytest.fixture(scope="module", params=["doc_sentences", "segment_pair_nsp"])
def prepared(tools, request, text, tmp_path_factory):
    """Prepared shards of either mode, with the config."""
    output = tmp_path_factory.mktemp("prepared") / request.param
    config = tools.config_for(text, mode=request.param)
    tools.run(config, output)
    return config, output


def test_the_number_of_workers_changes_no_byte(tools, prepared, tmp_path):
    """OFA-26 and OFA-28: all files of the folder are the same with one, two and three workers."""
    config, output = prepared
    expected = tools.sums(output)
    assert len([name for name in expected if name.startswith("train/")]) >= 3
    for workers in (1, 3):
        tools.run(config, tmp_path / str(workers), workers)
        assert tools.sums(tmp_path / str(workers)) == expected


def test_the_corpus_opens_and_verifies(prepared):
    config, output = prepared
    corpus = Corpus.open(output)
    assert corpus.verify() == []
    assert (corpus.mode, corpus.sequence_length, corpus.vocab_size) == (config.mode, 64, 400)
    assert {path.name for path in output.iterdir()} == {
        "manifest.json",
        "train",
        "validation",
        "documents",
        "rejects.jsonl",
        "card.html",
        "tokenizer",
    }


def test_segments_never_straddle_rows_and_are_examples_of_their_own(prepared):
    """PERF-15, the data: a row is whole segments, each from [CLS] to [SEP] with no [CLS] inside."""
    config, output = prepared
    corpus = Corpus.open(output)
    cls, sep = corpus.special["cls"], corpus.special["sep"]
    for split in ("train", "validation"):
        for record in corpus.split(split).records:
            data = read_record(record)
            assert np.isin(data.rows, data.segments).all() and (np.diff(data.rows) <= 64).all()
            starts, stops = data.segments[:-1], data.segments[1:]
            assert (data.tokens[starts] == cls).all() and (data.tokens[stops - 1] == sep).all()
            assert (data.tokens == cls).sum() == len(starts)
            if config.mode == "segment_pair_nsp":
                assert data.second is not None and data.labels is not None
                assert (data.tokens[data.second - 1] == sep).all() and (data.second > starts).all()
                assert (data.tokens == sep).sum() == 2 * len(starts) and set(data.labels) <= {0, 1}
            else:
                assert data.second is None and data.labels is None


def test_the_manifests_counts_are_those_of_the_rows(prepared):
    _, output = prepared
    split = Corpus.open(output).split("train")
    row = 0
    for record in split.records:
        data = read_record(record)
        np.testing.assert_array_equal(split.counts[row : row + record.rows, 0], np.diff(data.rows))
        special = np.add.reduceat(data.tokens < 5, data.rows[:-1]) - np.add.reduceat(data.tokens == 1, data.rows[:-1])
        np.testing.assert_array_equal(split.counts[row : row + record.rows, 1], np.diff(data.rows) - special)
        row += record.rows
    assert row == split.total_rows > 50


def test_no_group_stands_in_both_halves_and_duplicates_are_gone(prepared):
    """OFA-28: the validation split is disjoint from the training split by document, here by group of documents."""
    _, output = prepared
    documents = documents_of(output)
    halves = {
        split: {one["meta"]["wing"] for one in documents if one["split"] == split} for split in ("train", "validation")
    }
    assert halves["train"] and halves["validation"] and not halves["train"] & halves["validation"]
    texts = [" ".join(one["text"].split()) for one in documents]
    assert len(texts) == len(set(texts))
    statistics = Corpus.open(output).manifest["statistics"]
    assert statistics["dropped_duplicate"] == 160 - len(texts) >= 12
    assert statistics["train_documents"] + statistics["validation_documents"] == len(texts)


def test_pairs_have_both_labels_and_sentences_are_joined(prepared):
    config, output = prepared
    statistics = Corpus.open(output).manifest["statistics"]
    if config.mode == "segment_pair_nsp":
        assert 0.4 < statistics["random_pairs"] / statistics["pairs"] < 0.8
    else:
        assert statistics["fill"] >= 0.97  # of shards of 60 rows; the last row of each is a hundredth of that


def test_a_finished_folder_is_reused_and_another_config_is_refused(tools, prepared, text):
    config, output = prepared
    before = tools.sums(output)
    assert finished(config, output) == Corpus.open(output).manifest
    assert tools.sums(output) == before
    other = tools.config_for(text, mode=config.mode, sequence_length=32, seed=7)
    with pytest.raises(DataPrepError, match=r"sequence_length \(64 -> 32\)") as error:
        finished(other, output)
    assert "seed (42 -> 7)" in str(error.value)


def test_an_empty_corpus_is_an_error_with_the_reasons(tools, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(" \n")
    with pytest.raises(DataPrepError, match="no document is left after .*: 1 document read, dropped empty 1$"):
        tools.run(tools.config_for(tmp_path / "text", source={"group_field": None}), tmp_path / "out")


def test_an_empty_half_is_an_error_with_the_remedy(tools, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One two three four. " * 40)
    config = tools.config_for(tmp_path / "text", source={"group_field": None}, tokenizer={"vocab_size": 40})
    said = r"nothing went to \w+: 1 document kept, \d for train and \d for validation, with .* or seed"
    with pytest.raises(DataPrepError, match=said):
        tools.run(config, tmp_path / "out")


def test_a_worker_that_is_killed_is_an_error_and_not_a_hang():
    with Workers(1) as pool, pytest.raises(DataPrepError, match="a worker process was killed"):
        list(pool.map(os.kill, [(os.getpid(), 0)]))
        list(pool.map(os._exit, [(9,)]))


def test_workers_never_import_torch(tools, text, tmp_path, monkeypatch):
    seen = []
    original = Workers.__exit__

    def ask(self, *arguments):
        seen.extend(
            self.map(eval, [("[name in __import__('sys').modules for name in ('torch', 'data_prep.encode')]",)])
        )
        original(self, *arguments)

    monkeypatch.setattr(Workers, "__exit__", ask)
    tools.run(tools.config_for(text), tmp_path / "out", workers=1)
    assert seen == [[False, True]]


def test_the_command_says_what_it_did_and_reuses_it(tools, text, tmp_path):
    config = tools.config_for(text)
    outputs = []
    for _ in range(2):
        process = tools.start(config, tmp_path, tmp_path / "out")
        out, error = process.communicate()
        assert process.returncode == 0, error
        outputs.append(out.decode())
    assert "160 documents read, " in outputs[0] and " kept, dropped duplicate" in outputs[0] and "% full" in outputs[0]
    assert outputs[1].startswith(f"{tmp_path / 'out'}: already prepared")
    process = tools.start(tools.config_for(text, seed=3), tmp_path, tmp_path / "out")
    out, error = process.communicate()
    assert process.returncode == 1 and b"error: " in error and b"seed (42 -> 3)" in error
