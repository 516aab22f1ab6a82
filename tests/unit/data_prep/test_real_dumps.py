"""A real dump, WikiExtractor's output and novels: what is counted, what is left of markup, and rows that are full."""

import os
import re
import signal
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.wiki_text import MARKUP, compare, left
from data_prep import sources
from data_prep.pipeline import prepare
from data_prep.tally import Tally
from data_prep.wiki.files import Part, read_part
from data_prep.wiki.pages import Page, read_pages
from ofa.config import DataPrepConfig, SourceConfig, parse
from ofa.data.shards import Corpus
from tests.real_data import unpacked

pytest.importorskip("mwparserfromhell")

DUMP = Path(os.environ.get("OFA_TEST_DATA", ""), "enwiki-206pages.xml.bz2")
pytestmark = pytest.mark.skipif(
    "OFA_TEST_DATA" not in os.environ or not DUMP.is_file(), reason="OFA_TEST_DATA has no enwiki-206pages.xml.bz2"
)


@pytest.fixture(scope="module")
def articles():
    """Documents of the dump by id, and the counts."""
    source, counts = SourceConfig(kind="mediawiki", paths=[str(DUMP)]), Tally(sample=3)
    return {one.id: one for unit in sources.units(source, 10**9) for one in sources.read(source, unit, counts)}, counts


def test_every_page_is_an_article_or_counted(articles):
    documents, counts = articles
    assert counts["pages"] == 206 and counts["dropped_redirect"] + counts["dropped_namespace"] == 100
    assert len(documents) == 97 and counts["dropped_disambiguation"] == 8
    assert not any(name.startswith("damaged") for name in counts)
    empty = [(one["id"], one["characters"]) for one in counts.rejects if one["reason"] == "dropped_empty"]
    assert empty == [("List of anthropologists", 6_521)]  # nothing but names; its wikitext is what is shown
    assert all(one.text for one in documents.values())


@pytest.mark.parametrize("kind", [kind for kind in MARKUP if kind not in ("empty brackets", "lonely commas")])
def test_no_markup_is_left(articles, kind):
    assert left([one.text for one in articles[0].values()], kind) == 0


def test_cutting_leaves_no_holes(articles):
    """Empty brackets and lonely commas that are not the source's own; and no private sign."""
    texts = [one.text for one in articles[0].values()]
    assert left(texts, "empty brackets") < 0.1 and left(texts, "lonely commas") < 0.2
    assert not re.search(r"[\x00-\x08]|  |\n\n\n", "\n".join(texts))


def test_what_wikiextractor_keeps_is_kept(articles, tmp_path):
    """By runs of six words of the pages that both have, as far as the source has them; headings and captions aside."""
    shards = unpacked("wikiextractor_raw_shards.tar.xz", tmp_path)
    pages = [one for one in read_pages(read_part(Part(str(DUMP))), 10**8) if isinstance(one, Page)]
    pages = [page for page in pages if page.id in articles[0]]
    found = compare(pages, {key: one.text for key, one in articles[0].items()}, shards)
    assert found["pages"] > 80 and found["share_kept"] > 0.98
    assert found["words"]["ours"] > found["words"]["theirs"]


def test_wikiextractor_shards_become_prose(tmp_path):
    source = SourceConfig(kind="wikiextractor", paths=[str(unpacked("wikiextractor_raw_shards.tar.xz", tmp_path))])
    texts = [one.text for unit in sources.units(source, 10**9) for one in sources.read(source, unit, Tally())]
    assert len(texts) == 200
    for kind in ("brackets", "tags", "quotes", "placeholders"):
        assert left(texts, kind) == 0, kind


def test_novels_are_books_of_paragraphs(tmp_path):
    archive = Path(os.environ["OFA_TEST_DATA"], "eltec_eng.tar.xz")
    if not archive.is_file():
        pytest.skip("OFA_TEST_DATA has no eltec_eng.tar.xz")
    with tarfile.open(archive) as file:
        for member in [member for member in file if member.name.endswith(".txt")][:5]:
            file.extract(member, tmp_path, filter="data")
    source = SourceConfig(kind="books", paths=[str(tmp_path)])
    for unit in sources.units(source, 10**9):
        for book in sources.read(source, unit, Tally()):
            (path,) = tmp_path.rglob(Path(book.id).name)
            source_text = re.sub(r"(?<=\S) ?\[\d+\]", "", path.read_text(encoding="utf-8").replace("_", ""))
            assert re.findall(r"\w+", book.text) == re.findall(r"\w+", source_text)
            assert book.text.count("\n\n") > 500


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of the tokenizer of bert-base-uncased."""
    folder = unpacked("models_tiny.tar.xz", tmp_path_factory.mktemp("models"))
    return next(path.parent for path in folder.rglob("tokenizer.json") if "bert-base" in str(path))


def config_of(tokenizer, **values):
    """The dump, in small pieces."""
    source = {"kind": "mediawiki", "paths": [str(DUMP)]}
    common = {"source": source, "tokenizer": {"init": str(tokenizer)}, "shard_characters": 500_000, **values}
    return parse(DataPrepConfig, {"clean": {"min_characters": 200, "unicode": "NFC"}, **common}, origin="test")


def test_articles_of_a_dump_fill_their_rows(tokenizer, tmp_path):
    """PERF-14: at most 1 % of the training positions are padding, from the dump to the shards."""
    prepare(config_of(tokenizer, sequence_length=128), tmp_path / "out", 2, lambda *_: None)
    corpus = Corpus.open(tmp_path / "out")
    counts = corpus.split("train").counts
    assert corpus.verify() == [] and 1 - counts[:, 0].sum() / (len(counts) * 128) <= 0.01


def test_a_preparation_from_a_dump_that_is_killed_ends_with_the_same_bytes(tools, tokenizer, tmp_path):
    config = config_of(tokenizer, mode="segment_pair_nsp")
    tools.run(config, tmp_path / "once", 1)
    process = tools.start(config, tmp_path, tmp_path / "twice")
    while not list((tmp_path / "twice" / ".work").glob("encode/*.json")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "twice" / "manifest.json").exists()
    tools.run(config, tmp_path / "twice", 5)
    assert tools.sums(tmp_path / "twice") == tools.sums(tmp_path / "once")
