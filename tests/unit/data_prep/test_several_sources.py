"""Several weighted sources in one corpus, and the split by the first documents."""

import json

import numpy as np
import pytest

from data_prep.changes import compare_source
from data_prep.documents import DataPrepError, Document
from data_prep.encode import calls, copies_of
from ofa.config import ConfigError, DataPrepConfig, parse
from ofa.data.shards import Corpus, read_record
from tests.unit.data_prep.test_pipeline import documents_of
from tests.unit.data_prep.test_split import names_in

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two sources with the same ids, each document with a word of its own in every sentence."""
    root = tmp_path_factory.mktemp("sources")
    for name, first, count in (("one", 0, 200), ("two", 1000, 100)):
        (root / name).mkdir()
        with (root / name / "a.jsonl").open("w") as file:
            for number in range(count):
                own = f"q{first + number}q"
                text = " ".join(f"{own} {WORDS[number % 16]} {WORDS[place]}." for place in range(4))
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
    return root


def config_of(folders, *, weights=(1.0, 1.0), **values):
    """Both sources."""
    kinds = [
        {"kind": "text", "paths": [str(folders / name)], "weight": w}
        for name, w in zip(("one", "two"), weights, strict=True)
    ]
    defaults = {
        "sources": {"first": kinds[0], "second": kinds[1]},
        "tokenizer": {"vocab_size": 120},
        "sequence_length": 64,
        "record_tokens": 2048,
        "shard_characters": 3000,
        "validation_share": 0.2,
    }
    return parse(DataPrepConfig, {**defaults, **values}, origin="test")


@pytest.fixture(scope="module")
def plain(tools, folders, tmp_path_factory):
    """Both sources as they are."""
    output = tmp_path_factory.mktemp("plain") / "out"
    tools.run(config_of(folders), output)
    return output


def test_names_of_sources_stand_before_ids_and_each_is_counted(plain):
    found = documents_of(plain)
    assert len({one["id"] for one in found}) == 300
    assert [one["id"].split("/")[0] for one in found] == ["first"] * 200 + ["second"] * 100
    manifest = Corpus.open(plain).manifest
    read = {name: own["counts"]["documents_read"] for name, own in manifest["sources"].items()}
    assert read == {"first": 200, "second": 100} and manifest["statistics"]["documents_read"] == 300
    assert {name: sum(own["lengths"].values()) for name, own in manifest["sources"].items()} == read
    assert set(manifest["source"]["sources"]) == {"first", "second"}
    halves = {one["id"].replace("second/", "").replace("first/", ""): one["split"] for one in found[:100]}
    assert any(halves[one["id"].removeprefix("second/")] != one["split"] for one in found[200:])  # drawn by itself


@pytest.mark.parametrize("mode", ["doc_sentences", "segment_pair_nsp"])
def test_a_source_of_weight_two_is_read_twice_for_training_and_once_for_validation(tools, folders, tmp_path, mode):
    config = config_of(folders, weights=(1.0, 2.5), mode=mode)
    tools.run(config, tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.verify() == []
    times = {number: 0 for number in range(2000)}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    documents = documents_of(tmp_path / "out")
    in_training = {one["id"] for one in documents if one["split"] == "train"}
    assert len(documents) == 300 and names_in(tmp_path / "out", "validation").isdisjoint(
        names_in(tmp_path / "out", "train")
    )
    if mode == "segment_pair_nsp":
        return
    for record in corpus.split("train").records:
        for word in tokenizer.decode(read_record(record).tokens.tolist()).split():
            if word.startswith("q") and word.endswith("q"):
                times[int(word[1:-1])] += 1
    second = [times[1000 + number] / 4 for number in range(100) if f"second/{number}" in in_training]
    assert set(second) == {2.0, 3.0} and 2.2 < np.mean(second) < 2.8
    assert {times[number] / 4 for number in range(200) if f"first/{number}" in in_training} == {1.0}


def test_a_weight_below_one_drops_documents_by_their_hash(tools, folders, tmp_path):
    statistics = tools.run(config_of(folders, weights=(0.25, 1.0)), tmp_path / "out")["statistics"]
    ids = [
        one["id"]
        for one in documents_of(tmp_path / "out")
        if one["split"] == "train" and one["id"].startswith("first/")
    ]
    assert 0.1 < len(ids) / 160 < 0.4
    assert statistics["dropped_by_weight"] + len(documents_of(tmp_path / "out")) == 300


def test_weights_are_kept_on_average_and_never_below_their_whole_part():
    found = [copies_of(Document(str(number), ""), 1.3) for number in range(2000)]
    assert set(found) == {1, 2} and abs(np.mean(found) - 1.3) < 0.04


def test_the_number_of_workers_changes_no_byte(tools, folders, tmp_path):
    config = config_of(folders, weights=(1.0, 2.5))
    for workers in (1, 2, 5):
        tools.run(config, tmp_path / str(workers), workers)
    assert tools.sums(tmp_path / "1") == tools.sums(tmp_path / "2") == tools.sums(tmp_path / "5")
    assert len(calls(config, [{"source": "first"}, {"source": "second"}])) == 4


def test_a_change_of_one_source_names_it(folders, plain, tmp_path):
    config = config_of(folders)
    manifest = Corpus.open(plain).manifest
    said = compare_source(config, manifest, plain)
    assert "source first holds the same 1 file," in said.result and "source second holds" in said.result
    extra = folders / "two" / "b.jsonl"
    extra.write_text('{"text": "x"}\n')
    try:
        with pytest.raises(DataPrepError, match="other files than source second holds now: 1 added"):
            compare_source(config, manifest, plain)
    finally:
        extra.unlink()


def test_the_first_documents_are_for_validation_on_request(tools, folders, tmp_path):
    """The published method's split: `train[:5%]` of the corpus in its order."""
    source = {"kind": "text", "paths": [str(folders / "one")]}
    config = config_of(folders, source=source, sources={}, split="prefix", validation_share=0.05)
    tools.run(config, tmp_path / "out")
    found = documents_of(tmp_path / "out")
    assert [one["split"] for one in found] == ["validation"] * 10 + ["train"] * 190
    assert [one["id"] for one in found] == [str(number) for number in range(200)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": {"kind": "docstrings"}}, "give source, or several sources by name: found both"),
        ({"sources": {}}, "give source, or several sources by name: found neither"),
        ({"split": "prefix"}, "split prefix cuts one source whose documents have no groups"),
        ({"sources": {"a/b": {"kind": "docstrings"}}}, "names are letters, digits, - and _; found 'a/b'"),
        ({"sources": {"a": {"kind": "text", "paths": ["x"], "wiki": {}}}}, "sources.a: wiki is for kind mediawiki"),
    ],
)
def test_what_cannot_go_together_is_refused(folders, values, said):
    with pytest.raises(ConfigError, match=said):
        config_of(folders, **values)
