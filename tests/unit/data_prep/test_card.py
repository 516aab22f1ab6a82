"""The card of a corpus says what its manifest says, and shows it."""

import ast
import base64
import html.parser
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import data_prep
from data_prep.card import card
from data_prep.card_pictures import columns, stacked_bars
from data_prep.counts import MEANINGS
from data_prep.wiki import pages
from ofa.config import DataPrepConfig, parse
from ofa.data.shards import read_manifest


class Page(html.parser.HTMLParser):
    """Texts, pictures and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.pictures, self.ids, self.is_in_cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """As HTMLParser."""
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.pictures += [values["src"]] if tag == "img" else []
        if tag == "td":
            self.cells.append("")
            self.is_in_cell = True

    def handle_data(self, data):
        """As HTMLParser."""
        if self.is_in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag):
        """As HTMLParser."""
        self.is_in_cell = self.is_in_cell and tag != "td"


def drawing(uri):
    """The parsed SVG of a `data:` URI."""
    return ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))


@pytest.fixture(scope="module")
def prepared(tools, tmp_path_factory):
    """Two sources, some of whose documents are dropped."""
    folder = tmp_path_factory.mktemp("card")
    tools.write_text(folder / "one")
    (folder / "two").mkdir()
    lines = [json.dumps({"id": number, "text": f"Own words {number} <b>. " * 9}) for number in range(20)]
    (folder / "two" / "a.jsonl").write_text("\n".join([*lines, '{"id": "short <i>", "text": "x"}']) + "\n")
    sources = {
        "one": {"kind": "text", "paths": [str(folder / "one")], "licence": "CC BY-SA 4.0"},
        "two": {"kind": "text", "paths": [str(folder / "two")], "weight": 2.0},
    }
    values = {
        "sources": sources,
        "clean": {"min_characters": 5},
        "tokenizer": {"vocab_size": 400},
        "sequence_length": 64,
    }
    config = parse(DataPrepConfig, {**values, "validation_share": 0.2, "record_tokens": 2048}, origin="test")
    tools.run(config, folder / "out")
    return folder / "out"


def test_the_card_names_sources_licences_reasons_and_the_fingerprint(prepared):
    text = (prepared / "card.html").read_text()
    page, manifest = Page(text), read_manifest(prepared)
    assert page.ids == ["header", "size", "sources", "dropped", "lengths", "rejects", "config"]
    assert manifest["fingerprint"] in text and "http" not in re.sub(r'src="[^"]*"|xmlns="[^"]*"', "", text)
    assert "CC BY-SA 4.0" in page.cells and "not said" in page.cells
    dropped = manifest["statistics"]["dropped_duplicate"]
    row = page.cells.index("dropped duplicate")
    assert page.cells[row + 1 : row + 4] == ["the text of an earlier document", f"{dropped:,}", "0"]
    row = page.cells.index("dropped short")
    assert page.cells[row + 2 : row + 4] == ["0", "1"] and "two/short <i>" in page.cells
    tokens = [own["tokens"] for own in manifest["sources"].values()]
    assert sum(tokens) == sum(manifest["statistics"][f"{split}_tokens"] for split in ("train", "validation"))
    assert all(f"{number:,}" in page.cells for number in tokens)


def test_its_pictures_are_drawings_with_a_bar_for_each_number(prepared):
    page = Page((prepared / "card.html").read_text())
    assert len(page.pictures) == 3
    for uri in page.pictures:
        assert drawing(uri).findall(".//{*}rect")


def test_equal_corpora_have_equal_cards(prepared):
    manifest = read_manifest(prepared)
    rejects = [json.loads(line) for line in (prepared / "rejects.jsonl").read_text().splitlines()]
    assert card(manifest, rejects) == (prepared / "card.html").read_text()
    assert rejects and {one["reason"] for one in rejects} == {"dropped_duplicate", "dropped_short"}


def test_bars_are_as_long_as_their_numbers():
    svg = drawing(stacked_bars([("a <b>", [30, 10]), ("c", [0, 20])], ["x", "y"]))
    widths = [float(rect.get("width")) for rect in svg.findall("{*}rect")[2:]]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01) and widths[3] == pytest.approx(2 * widths[1], rel=0.01)
    assert [text.text for text in svg.findall("{*}text")] == ["x", "y", "a <b>", "40", "c", "20"]


def test_columns_stand_on_each_other():
    svg = drawing(columns({64: [3, 1], 128: [8, 0]}, ["x", "y"]))
    heights = [float(rect.get("height")) for rect in svg.findall("{*}rect")[2:]]
    assert heights[2] == pytest.approx(2 * (heights[0] + heights[1]), rel=0.01)


def test_every_count_of_what_was_dropped_or_damaged_has_its_meaning():
    """Else the page would not show it."""
    counted = re.compile(r"(?:dropped|damaged|unreadable|documents_with(?:out)?|unparsed|unclosed|leftover)_[a-z_0-9]+")
    found = {f"damaged_{kind}" for kind in (pages.NO_END, pages.NOT_XML, pages.LOST)}
    for path in Path(data_prep.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.name != "counts.py" else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and counted.fullmatch(node.value):
                found.add(node.value)
    assert len(found) > 20
    assert found <= set(MEANINGS)
