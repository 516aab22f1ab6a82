"""A few hundred real documents through the whole preparation; the data folder is named by OFA_TEST_DATA."""

import itertools
import json
import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from data_prep.pipeline import prepare
from data_prep.segments import Encoded, Frame, sentence_segments
from data_prep.sentences import split_by_rule
from ofa.config import DataPrepConfig, parse
from ofa.data.shards import Corpus, read_record

DATA = Path(os.environ.get("OFA_TEST_DATA", ""))
ARTICLES, NOVELS, MODELS = "wiki_en_2015.dev60.jsonl.xz", "eltec_eng.tar.xz", "models_tiny.tar.xz"

pytestmark = pytest.mark.skipif(
    "OFA_TEST_DATA" not in os.environ or not (DATA / ARTICLES).is_file(), reason=f"OFA_TEST_DATA has no {ARTICLES}"
)


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    """300 encyclopedia articles, their first 8,000 characters, as a compressed JSON-lines file."""
    path = tmp_path_factory.mktemp("text") / "articles.jsonl.xz"
    with lzma.open(DATA / ARTICLES, "rt") as file, lzma.open(path, "wt", preset=0) as short:
        for line in itertools.islice(file, 300):
            record = json.loads(line)
            short.write(json.dumps({**record, "text": record["text"][:8000]}) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of the tokenizer of bert-base-uncased."""
    folder = tmp_path_factory.mktemp("tokenizer")
    with tarfile.open(DATA / MODELS) as archive:
        wanted = [member for member in archive.getmembers() if "bert-base-uncased-tokenizer" in member.name]
        archive.extractall(folder, members=wanted, filter="data")
    return next(path.parent for path in folder.rglob("tokenizer.json"))


def prepared(output: Path, paths: list[Path], tokenizer: Path, **values) -> Corpus:
    """Run the preparation and open its folder."""
    source = {"kind": "text", "paths": [str(path) for path in paths]}
    values = {"source": source, "tokenizer": {"init": str(tokenizer)}, "shard_characters": 1_200_000, **values}
    prepare(parse(DataPrepConfig, values, origin="test"), output, 2, lambda *_: None)
    corpus = Corpus.open(output)
    assert corpus.verify() == []
    return corpus


@pytest.mark.parametrize("length", [128, 512])
def test_real_articles_fill_their_rows(articles, tokenizer, tmp_path, length):
    """PERF-14: at most 1 % of the training positions are padding, on real text."""
    corpus = prepared(tmp_path / "out", [articles], tokenizer, sequence_length=length)
    counts = corpus.split("train").counts
    assert 1 - counts[:, 0].sum() / (len(counts) * length) <= 0.01
    statistics = corpus.manifest["statistics"]
    assert statistics["documents_read"] == 300
    words = counts[:, 1].sum() + corpus.split("validation").counts[:, 1].sum()
    assert words / statistics["characters"] == pytest.approx(0.214, rel=0.1)  # WordPieces a character, whole corpus


def test_real_articles_make_balanced_pairs(articles, tokenizer, tmp_path):
    """OFA-26: on real text at length 512 a little over half of the pairs are random, and most are full."""
    corpus = prepared(tmp_path / "out", [articles], tokenizer, mode="segment_pair_nsp", sequence_length=512)
    lengths, labels = [], []
    for record in corpus.split("train").records:
        rows = read_record(record)
        lengths.append(np.diff(rows.segments.astype(int)))
        labels.append(rows.labels)
    lengths, labels = np.concatenate(lengths), np.concatenate(labels)
    assert lengths.max() == 512 and 0.3 < (lengths == 512).mean() < 0.95
    assert 0.5 < labels.mean() < 0.65
    assert corpus.manifest["statistics"]["fill"] >= 0.99


def test_rows_say_what_the_articles_say(articles, tokenizer, tmp_path):
    """With sentences kept whole, the segments of an article decode to its own words in order."""
    corpus = prepared(
        tmp_path / "out", [articles], tokenizer, sequence_length=128, overflow="close", validation_share=0
    )
    encoder = tokenizers.Tokenizer.from_file(str(corpus.tokenizer_path / "tokenizer.json"))
    with lzma.open(articles, "rt") as file:
        text = json.loads(next(file))["text"]
    ids = [encoder.encode(sentence, add_special_tokens=False).ids for sentence in split_by_rule(text)]
    flat = np.array([token for sentence in ids for token in sentence], np.uint16)
    frame = Frame(128, corpus.special["cls"], corpus.special["sep"])
    document = Encoded(flat, list(itertools.accumulate(map(len, ids))))
    expected = {segment.tokens.tobytes() for segment in sentence_segments(document, frame, cut=False)}
    found = set()
    for record in corpus.split("train").records:
        rows = read_record(record)
        found |= {rows.tokens[a:b].tobytes() for a, b in itertools.pairwise(rows.segments)}
    assert len(expected) > 5 and expected <= found


def test_novels_in_text_files_are_documents(tokenizer, tmp_path):
    if not (DATA / NOVELS).is_file():
        pytest.skip(f"OFA_TEST_DATA has no {NOVELS}")
    with tarfile.open(DATA / NOVELS) as archive:
        novels = itertools.islice((member for member in archive if member.name.endswith(".txt")), 6)
        for number, member in enumerate(novels):
            data = archive.extractfile(member)
            (tmp_path / f"{number}.txt").write_bytes(data.read(400_000).rsplit(b"\n", 1)[0])  # pyright: ignore
    corpus = prepared(tmp_path / "out", [tmp_path], tokenizer, sequence_length=512, validation_share=0.3)
    statistics = corpus.manifest["statistics"]
    assert statistics["train_documents"] + statistics["validation_documents"] == 6
    assert statistics["fill"] >= 0.99
