"""Dumps as a source: what becomes a document, what is counted, and what a damaged dump does."""

import bz2
import gzip
import lzma
import os
import random
import re
from pathlib import Path

import pytest

from data_prep import sources
from data_prep.counts import losses_in_words, read_in_words
from data_prep.documents import DataPrepError
from data_prep.tally import Tally
from ofa.config import SourceConfig, WikiConfig
from tests.dumps import dump, multistream, page

pytest.importorskip("mwparserfromhell")

PAGES = [
    page("Eins", "'''Eins''' ist [[Zwei|eine]] Zahl.{{Zitat}}\n[[Datei:x.png|mini]]\n[[Kategorie:Zahl]]", number=1),
    page("1", "#WEITERLEITUNG [[Eins]]", number=2, redirect="Eins"),
    page("Diskussion:Eins", "Hm.", number=3, namespace=1),
    page("Zwei (Begriffsklärung)", "* [[a]]", number=4),
    page("Drei", "* [[b]]\n{{Disambig}}", number=5),
    page("Vier", "return {}", number=6, model="Scribunto"),
    page("Fünf", "A text.{{disambiguation needed|date=x}}", number=7),
]


def documents(path, counts=None, size=10**6, **values):
    """All documents of a dump."""
    source = SourceConfig(kind="mediawiki", paths=[str(path)], **values)
    counts = Tally(sample=3) if counts is None else counts
    return [one for unit in sources.units(source, size) for one in sources.read(source, unit, counts)]


def test_articles_are_documents_and_the_rest_is_counted(tmp_path):
    (tmp_path / "a.xml").write_bytes(dump(PAGES))
    counts = Tally(sample=3)
    found = documents(tmp_path, counts)
    assert [(one.id, one.text) for one in found] == [("1", "Eins ist eine Zahl."), ("7", "A text.")]
    assert found[0].meta == {"title": "Eins", "revision": "1001"} and found[0].group is None
    assert {name: number for name, number in counts.items() if number} == {
        "pages": 7,
        "dropped_redirect": 1,
        "dropped_namespace": 1,
        "dropped_disambiguation": 2,
        "dropped_model": 1,
    }
    assert {(one["reason"], one["id"]) for one in counts.rejects} >= {
        ("dropped_model", "Vier"),
        ("dropped_redirect", "1"),
    }


@pytest.mark.parametrize(
    ("mark", "is_one"),
    [
        *((mark, True) for mark in ("disambig", "Disambiguation", "Human name disambiguation", "disambig|geo", "dab")),
        *((mark, False) for mark in ("disambiguation needed|x", "disambiguation_needed", "Disambig needed|date=x")),
        *((mark, False) for mark in ("disambig-needed", "Disambiguation-inline")),
    ],
)
def test_a_tag_on_a_link_makes_no_article_a_disambiguation(tmp_path, mark, is_one):
    (tmp_path / "a.xml").write_bytes(dump([page("Eins", f"A text.{{{{{mark}}}}}", number=1)]))
    assert documents(tmp_path) == [] if is_one else [one.text for one in documents(tmp_path)] == ["A text."]


def test_other_namespaces_and_disambiguations_on_request(tmp_path):
    (tmp_path / "a.xml").write_bytes(dump(PAGES))
    wiki = WikiConfig(namespaces=(0, 1), disambiguations=True, lists="keep")
    assert [one.text for one in documents(tmp_path, wiki=wiki)][1:] == ["Hm.", "a", "b", "A text."]


def test_the_index_beside_a_dump_is_no_dump_and_small_dumps_share_a_unit(tmp_path):
    data, index = multistream(PAGES, 2)
    for number in (1, 2):
        (tmp_path / f"w-multistream{number}.xml-p{number}p9.bz2").write_bytes(data)
        (tmp_path / f"w-multistream-index{number}.txt-p{number}p9.bz2").write_bytes(index)
    assert len(documents(tmp_path)) == 4
    source = SourceConfig(kind="mediawiki", paths=[str(tmp_path)])
    assert len(sources.units(source, 10**6)) == 1 and len(sources.units(source, 1)) == 2 * 5
    assert len(documents(tmp_path, size=1)) == 4


def broken(tmp_path: Path, what: str) -> Path:
    """A dump with a damage of a kind, and one whole page before and behind it where it can be."""
    path = tmp_path / ("a.xml.bz2" if what.startswith("bz2") else "a.xml")
    pages = [page("A", "First."), page("B", "HERE " + "filler " * 50, number=2), page("C", "Last.", number=3)]
    whole = dump(pages)
    data = {
        "truncated": whole[: whole.index(b"HERE")],
        "utf8": whole.replace(b"HERE", b"\xff"),
        "nul": whole.replace(b"HERE", b"\0"),
        "bz2_truncated": bz2.compress(whole)[:-20],
        "bz2_broken": b"",
        "no_page": dump([])[:-14],
    }[what]
    if what == "bz2_broken":
        parts = [bz2.compress(part.encode()) for part in pages]
        parts[1] = parts[1][:60] + os.urandom(20) + parts[1][80:]
        data = bz2.compress(dump([])[:-13]) + b"".join(parts) + bz2.compress(b"</mediawiki>\n")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("what", "said", "count", "left"),
    [
        ("truncated", r"a.xml: page without end \(B; the file ends in it\)", "damaged_page_without_end", ["First."]),
        ("utf8", r"a.xml: page not xml \(B: not UTF-8", "damaged_page_not_xml", ["First.", "Last."]),
        ("nul", r"a.xml: page not xml \(B: NUL byte", "damaged_page_not_xml", ["First.", "Last."]),
        ("bz2_truncated", r"a.xml.bz2: lost bytes \(truncated", "damaged_lost_bytes", []),
        (
            "bz2_broken",
            r"a.xml.bz2: lost bytes \(broken bzip2 stream at byte \d+",
            "damaged_lost_bytes",
            ["First.", "Last."],
        ),
        ("no_page", r"a.xml: lost bytes \(the file ends before </mediawiki>", "damaged_lost_bytes", []),
    ],
)
def test_damage_is_refused_with_its_place_or_skipped_and_counted(tmp_path, what, said, count, left):
    path = broken(tmp_path, what)
    with pytest.raises(DataPrepError, match=said + ".*; fetch the dump again, or set source.on_damage=skip"):
        documents(path)
    counts = Tally(sample=3)
    assert [one.text for one in documents(path, counts, on_damage="skip")] == left
    assert counts[count] == 1 and any(one["reason"] == count for one in counts.rejects)


FRENCH = {
    'xml:lang="de"': 'xml:lang="fr"', "Medium<": "Média<", "Datei<": "Fichier<", "Kategorie<": "Catégorie<",
}  # fmt: skip
MUSTERSTADT = """{{Infobox Ort|Höhe=5}}
[[Datei:Haus.jpg|mini|Ein Haus]] [[Bild:Alt.jpg|thumb|Ein altes Haus]]
'''Musterstadt''' ({{enS|sample town}}) liegt auf {{Höhe|120|DE-NHN}} am [[Fluss (Gewässer)|Fluss]].<ref>Ein Buch.</ref>

== Weblinks ==
* Das ist eine Liste von Verweisen, die niemand lesen will.

== Einzelnachweise ==
<references />
[[Kategorie:Ort]]"""
EXEMPLE = """{{Infobox Commune|altitude=5}}
[[Fichier:Maison.jpg|vignette|Une maison]]
'''Exemple''' est une commune du {{s|XIX}}, à {{unité|3|km}} de la mer{{Référence nécessaire}} et {{inconnu|x}} du lac.

== Liens externes ==
* Ceci est une liste de liens que personne ne veut lire.

== Voir aussi ==
* Encore une liste de liens que personne ne veut lire.
[[Catégorie:Commune]]"""


def test_a_german_dump_is_read_by_its_own_names(tmp_path):
    pages = [
        page("Musterstadt", MUSTERSTADT, number=1),
        page("Muster", "#WEITERLEITUNG [[Musterstadt]]", number=2, redirect="Musterstadt"),
        page("Musterort", "Musterort steht für:\n* [[Musterstadt]]\n{{Begriffsklärung}}", number=3),
        page("Vorlage:X", "x", number=4, namespace=10),
    ]
    (tmp_path / "a.xml").write_bytes(dump(pages))
    counts = Tally(sample=3)
    (found,) = documents(tmp_path, counts)
    assert found.text == "Musterstadt (englisch sample town) liegt auf 120 m \u00fc. NHN am Fluss."
    assert counts["dropped_redirect"] == counts["dropped_disambiguation"] == counts["dropped_namespace"] == 1
    (kept,) = documents(tmp_path, wiki=WikiConfig(drop_sections=()))
    assert "niemand lesen will" in kept.text


def test_a_french_dump_is_read_by_its_own_names(tmp_path):
    pages = [
        page("Exemple", EXEMPLE, number=1),
        page("Ex", "#REDIRECTION [[Exemple]]", number=2, redirect="Exemple"),
        page("Exemples", "* [[Exemple]]\n{{Homonymie}}", number=3),
    ]
    data = dump(pages).decode()
    for german, french in FRENCH.items():
        data = data.replace(german, french)
    (tmp_path / "a.xml").write_text(data)
    counts = Tally(sample=3)
    (found,) = documents(tmp_path, counts)
    assert found.text == "Exemple est une commune du XIXe siècle, à 3 km de la mer et du lac."
    assert counts["dropped_redirect"] == counts["dropped_disambiguation"] == 1
    assert not any(name in counts for name in ("template R\u00e9f\u00e9rence n\u00e9cessaire", "template S"))
    assert counts["template Inconnu"] == counts["templates_not_rendered"] == 1


def test_templates_that_were_not_rendered_are_in_manifest_and_card(tools, tmp_path):
    words = "Sentences of {{%s}} here and {{Common}} there, and some more words of it. " * 20
    pages = [page(f"T{n}", (words % ((f"Name {n % 3}",) * 20)) + str(n), number=n) for n in range(30)]
    (tmp_path / "a.xml").write_bytes(dump(pages))
    values = {"source": {"kind": "mediawiki", "paths": [str(tmp_path / "a.xml")], "group_field": None}}
    config = tools.config_for(tmp_path, **values, shard_characters=2000, tokenizer={"vocab_size": 90})
    manifest = tools.run(config, tmp_path / "out")
    assert manifest["sources"][""]["templates"] == {"Common": 600, "Name 0": 200, "Name 1": 200, "Name 2": 200}
    assert manifest["statistics"]["templates_not_rendered"] == 1200
    assert "Common 600, Name 0 200" in (tmp_path / "out" / "card.html").read_text()


def test_names_in_the_middle_are_summed_whole(tools, tmp_path):
    """A name that in no part is among the first 200, but is in every one."""
    pages = []
    for part in range(12):
        names = [f"Own {part} {number}" for number in range(210)]
        text = " and ".join(f"one {{{{{name}}}}} {{{{{name}}}}} is" for name in names)
        pages.append(page(f"T{part}", f"{text} with {{{{Spread}}}} in {part}.", number=part + 1))
    data = dump(pages)
    (tmp_path / "a.xml").write_bytes(data)
    values = {"source": {"kind": "mediawiki", "paths": [str(tmp_path / "a.xml")], "group_field": None}}
    config = tools.config_for(tmp_path, **values, shard_characters=len(data) // 24, tokenizer={"vocab_size": 90})
    found = tools.run(config, tmp_path / "out")["sources"][""]["templates"]
    assert len(found) == 200 and next(iter(found.items())) == ("Spread", 12)


@pytest.mark.parametrize("packed", [bz2.compress, gzip.compress, lzma.compress])
@pytest.mark.parametrize("size", [10**6, 1000])
def test_a_page_in_which_a_compressed_file_ends_early_says_so(tmp_path, packed, size):
    draw = random.Random(1)
    pages = [page(f"T{i}", "".join(draw.choices("abcdefgh ", k=300_000)), number=i) for i in range(8)]
    path = tmp_path / {"bz2": "a.xml.bz2", "gzip": "a.xml.gz", "lzma": "a.xml.xz"}[packed.__module__]
    data = packed(dump(pages))
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataPrepError, match=r"(truncated|ended before).*") as error:
        documents(path, size=size)
    assert re.search(r"in the page T\d|\(T\d; trunc", str(error.value))
    if packed is bz2.compress:
        assert f"the file ends at byte {path.stat().st_size}" in str(error.value)
    counts = Tally(sample=3)
    assert len(documents(path, counts, size=size, on_damage="skip")) >= 2 and counts["damaged_lost_bytes"] == 1


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2"])
def test_what_is_no_dump_is_refused_with_its_beginning(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>Not found</html>")
    with pytest.raises(DataPrepError, match="no dump of a MediaWiki: it begins with '<html>Not found</html>'"):
        documents(tmp_path)


@pytest.mark.parametrize("size", [10**6, 40])
def test_with_skip_what_is_no_dump_is_left_out_counted_and_named(tmp_path, size):
    said = b"<!DOCTYPE html><title>429 Too Many Requests</title>" + b"x" * 100
    (tmp_path / "a.xml").write_bytes(dump([page("A", "First.")]))
    (tmp_path / "b.xml.bz2").write_bytes(said)
    (tmp_path / "c.xml").write_bytes(said)
    (tmp_path / "d.xml.bz2").write_bytes(bz2.compress(said))
    (tmp_path / "e.xml.gz").write_bytes(said)
    counts = Tally(sample=5)
    assert [one.text for one in documents(tmp_path, counts, size=size, on_damage="skip")] == ["First."]
    assert {name: number for name, number in counts.items() if number} == {"pages": 1, "damaged_no_dump": 4}
    assert sorted(Path(one["id"]).name[0] for one in counts.rejects) == ["b", "c", "d", "e"]
    assert all("it begins with '<!DOCTYPE html>" in one["text"] for one in counts.rejects)
    assert losses_in_words(counts) == ["damaged no dump 4"]


def test_every_page_is_read_and_kept_or_counted_as_lost(tmp_path):
    (tmp_path / "a.xml").write_bytes(dump([*PAGES, page("Zu gross", "x" * 2000, number=8)]).replace(b"Hm.", b"\0"))
    counts = Tally(sample=3)
    kept = documents(tmp_path, counts, wiki=WikiConfig(max_page_bytes=1500), on_damage="skip")
    losses = [number for name, number in counts.items() if name.startswith(("dropped", "damaged_page"))]
    assert read_in_words([counts]) == "8 pages read" and len(kept) + sum(losses) == 8
    assert read_in_words([counts, {"documents_read": 1}]) == "8 pages and 1 document read"


def test_a_dump_without_a_page_says_what_it_is(tools, tmp_path):
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump([])))
    values = {"source": {"kind": "mediawiki", "paths": [str(tmp_path / "a.xml.bz2")], "group_field": None}}
    size = (tmp_path / "a.xml.bz2").stat().st_size
    with pytest.raises(DataPrepError, match=f": 0 pages read, 1 file of {size} bytes; .*a.xml.bz2 begins with '<media"):
        tools.run(tools.config_for(tmp_path, **values), tmp_path / "out", 1)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.xml.bz2").touch()
    with pytest.raises(DataPrepError, match="a.xml.bz2: an empty file"):
        documents(tmp_path)


def test_a_page_of_fifty_megabytes_is_counted_and_costs_nothing(tmp_path):
    (tmp_path / "a.xml").write_bytes(dump([page("Huge", "[[a " * 12_500_000), page("B", "Small.", number=2)]))
    counts = Tally(sample=3)
    assert [one.text for one in documents(tmp_path, counts)] == ["Small."]
    assert counts["dropped_page_too_large"] == 1


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_changes_no_byte(tools, tmp_path, workers):
    """OFA-26, OFA-28: of a dump in many parts."""
    words = "Sentences of the article number {0} say this and that about {0}. "
    pages = [page(f"T{number}", words.format(number) * 30, number=number) for number in range(60)]
    data, _ = multistream(pages, 5)
    (tmp_path / "a.xml.bz2").write_bytes(data)
    values = {"source": {"kind": "mediawiki", "paths": [str(tmp_path / "a.xml.bz2")], "group_field": None}}
    config = tools.config_for(tmp_path, **values, shard_characters=8000, tokenizer={"vocab_size": 120})
    tools.run(config, tmp_path / "once", 1)
    tools.run(config, tmp_path / str(workers), workers)
    expected = tools.sums(tmp_path / "once")
    assert tools.sums(tmp_path / str(workers)) == expected
    assert len([name for name in expected if name.startswith("train/")]) >= 5
