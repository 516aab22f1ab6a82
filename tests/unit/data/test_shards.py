"""The shard format: what is written is read, by us and by stock webdataset, and damage is named."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.data.shards import (
    Corpus,
    Segment,
    ShardError,
    ShardWriter,
    read_record,
    token_dtype,
    tokenizer_fingerprint,
    write_manifest,
)

SPECIAL = {"cls": 2, "sep": 3, "mask": 4, "pad": 0}


def make_corpus(folder: Path, rows: list[list[Segment]], *, pairs: bool = False, vocab_size: int = 1000) -> Corpus:
    """A folder with one train shard of `rows`."""
    for name in ("train", "validation", "tokenizer"):
        (folder / name).mkdir(parents=True)
    path = folder / "train" / "shard-00000.tar"
    writer = ShardWriter(path, token_dtype(vocab_size), 64, special=SPECIAL.values(), pairs=pairs)
    for row in rows:
        writer.add_row(row)
    write_manifest(
        folder,
        {
            "mode": "segment_pair_nsp" if pairs else "doc_sentences",
            "sequence_length": 32,
            "vocab_size": vocab_size,
            "tokenizer": {"fingerprint": "none", "special": SPECIAL},
            "splits": {"train": {"shards": [writer.close()]}, "validation": {"shards": []}},
        },
    )
    return Corpus.open(folder)


def some_rows(count: int = 40) -> list[list[Segment]]:
    """Rows of one to three pair segments."""
    draw = np.random.default_rng(0)
    return [
        [Segment(draw.integers(0, 1000, draw.integers(3, 11)), 2, int(draw.integers(2))) for _ in range(number % 3 + 1)]
        for number in range(count)
    ]


segments = st.lists(st.integers(0, 70_000), min_size=1, max_size=20).flatmap(
    lambda tokens: st.builds(Segment, st.just(tokens), st.integers(0, len(tokens) - 1), st.integers(0, 1))
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(segments, min_size=1, max_size=4), min_size=1, max_size=12), pairs=st.booleans())
def test_rows_are_read_as_they_were_written(rows, pairs):
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name), rows, pairs=pairs, vocab_size=70_001)
        split = corpus.split("train")
        found = []
        for record in split.records:
            assert record.first_row == len(found)
            data = read_record(record)
            assert data.tokens.dtype == np.uint32 and set(data.rows) <= set(data.segments)
            assert data.rows[-1] == data.segments[-1] == len(data.tokens)
            for start, stop in zip(data.rows[:-1], data.rows[1:], strict=True):
                row = []
                for index in np.flatnonzero((data.segments[:-1] >= start) & (data.segments[:-1] < stop)):
                    first, last = data.segments[index : index + 2]
                    if data.second is None or data.labels is None:
                        row.append(Segment(data.tokens[first:last].tolist()))
                    else:
                        second = int(data.second[index] - first)
                        row.append(Segment(data.tokens[first:last].tolist(), second, int(data.labels[index])))
                found.append(row)
        expected = rows if pairs else [[Segment(list(segment.tokens)) for segment in row] for row in rows]
        assert found == expected
        assert split.total_rows == len(rows)
        tokens = [[token for segment in row for token in segment.tokens] for row in rows]
        maskable = [sum(token not in SPECIAL.values() for token in row) for row in tokens]
        assert split.counts.tolist() == [
            [len(all_), free, len(row)] for all_, free, row in zip(tokens, maskable, rows, strict=True)
        ]


def test_stock_webdataset_reads_the_same_arrays(tmp_path):
    """OFA-28, the format: each record is one sample of a webdataset, with the arrays that our reader finds."""
    corpus = make_corpus(tmp_path / "data", some_rows(), pairs=True)
    path = str(tmp_path / "data" / "train" / "shard-00000.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False).decode())
    records = corpus.split("train").records
    assert len(samples) == len(records) > 3
    for sample, record in zip(samples, records, strict=True):
        rows = read_record(record)
        for name in ("tokens", "rows", "segments", "second", "labels"):
            np.testing.assert_array_equal(sample[f"{name}.npy"], getattr(rows, name))
            assert sample[f"{name}.npy"].dtype == getattr(rows, name).dtype


def test_the_same_rows_give_the_same_bytes_and_fingerprint(tmp_path):
    first, second = (make_corpus(tmp_path / name, some_rows()) for name in "ab")
    other = make_corpus(tmp_path / "c", some_rows(39))
    assert first.manifest == second.manifest
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_an_open_handle_reads_the_same(tmp_path):
    record = make_corpus(tmp_path / "data", some_rows()).split("train").records[2]
    with record.shard.open("rb") as handle:
        np.testing.assert_array_equal(read_record(record, handle=handle).tokens, read_record(record).tokens)


def test_a_shard_has_no_name_until_it_is_closed(tmp_path):
    path = tmp_path / "shard-00000.tar"
    writer = ShardWriter(path, np.uint16, 64)
    for row in some_rows():
        writer.add_row(row)
    assert not path.exists()
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_abandoned_shard_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "shard-00000.tar", np.uint16, 64)
    writer.add_row(some_rows()[0])
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_refused_and_named(tmp_path):
    corpus = make_corpus(tmp_path / "data", some_rows())
    record = corpus.split("train").records[1]
    data = bytearray(record.shard.read_bytes())
    data[record.offset + 700] ^= 1
    record.shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"shard-00000.tar: the record at byte \d+ .* is damaged"):
        read_record(record)
    read_record(corpus.split("train").records[0])
    assert any("sha256 differs" in problem for problem in corpus.verify())


def test_a_truncated_or_missing_shard_is_refused_with_what_repairs_it(tmp_path):
    folder = tmp_path / "data"
    shard = make_corpus(folder, some_rows()).split("train").records[0].shard
    advice = rf"; restore it \(launch/verify.py checks all files\), or remove {folder} and make it with: python -m"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ShardError, match=rf"shard-00000.tar: \d+ bytes, the manifest expects \d+{advice}"):
        Corpus.open(folder)
    shard.unlink()
    with pytest.raises(ShardError, match=rf"shard-00000.tar: missing, the manifest expects \d+ bytes{advice}"):
        Corpus.open(folder)


def test_a_damaged_manifest_is_refused_with_what_repairs_it(tmp_path):
    make_corpus(tmp_path / "data", some_rows())
    path = tmp_path / "data" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match="not JSON .*; restore it .*, or remove .*data and make it with: python"):
        Corpus.open(tmp_path / "data")


def test_what_is_no_finished_corpus_is_refused_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    makes = "make it with: python -m data_prep --config"
    with pytest.raises(ShardError) as error:
        Corpus.open("data/docstrings")
    told = f"no such folder (working directory {tmp_path}); {makes} data/docstrings.json"
    assert str(error.value) == f"data/docstrings: {told}"
    with pytest.raises(ShardError) as error:
        Corpus.open(tmp_path / "my data")
    folder = tmp_path / "my data"
    assert str(error.value) == f"{folder}: no such folder; {makes} <config> --output '{folder}'"
    (tmp_path / "data" / "docstrings").mkdir(parents=True)
    with pytest.raises(ShardError, match="no manifest.json, so its preparation is not finished"):
        Corpus.open("data/docstrings")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "sparse-ofa-shards", "version": 99}'])
def test_a_manifest_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match="manifest.json"):
        Corpus.open(tmp_path)


def test_a_manifest_that_lacks_a_key_is_refused(tmp_path):
    make_corpus(tmp_path / "data", some_rows())
    path = tmp_path / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["splits"]["train"]["shards"][0]["records"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="damaged .*records"):
        Corpus.open(tmp_path / "data")


def test_a_tokenizers_fingerprint_follows_its_vocabulary_and_not_its_padding(tmp_path):
    data = {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}}, "normalizer": None, "padding": None}

    def fingerprint(**changes):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**data, **changes}))
        return tokenizer_fingerprint(tmp_path)

    assert fingerprint() == fingerprint(padding={"length": 8}, truncation={"max_length": 3})
    assert fingerprint() != fingerprint(model={"type": "WordPiece", "vocab": {"a": 1, "b": 0}})
    assert fingerprint() != fingerprint(normalizer={"type": "Lowercase"})
    with pytest.raises(ShardError, match="AutoTokenizer"):
        tokenizer_fingerprint(tmp_path / "elsewhere")
