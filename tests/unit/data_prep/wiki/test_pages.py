"""Dumps to pages, whole and broken, in parts of any size."""

import bz2
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.wiki.files import STREAM, Chunk, Part, index_of, parts, read_part, stream_starts
from data_prep.wiki.pages import LOST, NO_END, NOT_XML, TOO_LARGE, Flaw, Page, read_pages
from data_prep.wiki.sites import site_of
from tests.dumps import END, SITE, dump, multistream, page

TEXTS = [f"Text {number} with <markup> & \u00e9 {'x' * number * 7}" for number in range(40)]
PAGES = [page(f"Title {number} & more", text, number=number) for number, text in enumerate(TEXTS)]


def pages_of(path, size, most=10**6):
    """All pages of a file, part by part."""
    return [found for part in parts(path, size) for found in read_pages(read_part(part), most)]


def texts(found):
    return [one.text for one in found if isinstance(one, Page)]


def flaws(found):
    return [(one.kind, one.where) for one in found if isinstance(one, Flaw)]


@pytest.mark.parametrize("size", [1, 100, 997, 4000, 10**7])
def test_a_plain_dump_may_be_cut_anywhere(tmp_path, size):
    path = tmp_path / "a.xml"
    path.write_bytes(dump(PAGES))
    found = pages_of(path, size)
    assert [(one.title, one.id, one.text) for one in found] == [
        (f"Title {number} & more", str(number), text) for number, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("size", [1, 3000, 10**7])
def test_a_multistream_dump_is_cut_at_its_streams(tmp_path, with_index, size):
    data, index = multistream(PAGES, 7)
    path = tmp_path / "x-pages-articles-multistream.xml.bz2"
    path.write_bytes(data)
    if with_index:
        (tmp_path / "x-pages-articles-multistream-index.txt.bz2").write_bytes(index)
    assert (index_of(path) is not None) == with_index
    assert len(stream_starts(path)) == (7 if with_index else 8)  # the index does not name the stream of the end
    assert len(parts(path, size)) == {1: len(stream_starts(path)), 10**7: 1}.get(size, len(parts(path, size)))
    assert texts(pages_of(path, size)) == TEXTS


def test_the_index_of_a_numbered_part_of_a_dump_is_found(tmp_path):
    name = "enwiki-1-pages-articles-multistream{}1.{}-p1p41242.bz2"
    (tmp_path / name.format("-index", "txt")).touch()
    assert index_of(tmp_path / name.format("", "xml")) == tmp_path / name.format("-index", "txt")


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_streams_that_end_inside_of_pages_are_read_too(tmp_path, cut):
    """pbzip2 makes such files: a part owns what begins in it."""
    data = dump(PAGES)
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(data[start : start + cut]) for start in range(0, len(data), cut)))
    assert texts(pages_of(path, 1)) == TEXTS and flaws(pages_of(path, 1)) == []


def test_one_stream_is_one_part(tmp_path):
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump(PAGES)))
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(dump(PAGES)))
    for path in tmp_path.iterdir():
        assert len(parts(path, 1)) == 1 and texts(pages_of(path, 1)) == TEXTS


@given(st.lists(st.text(alphabet="ab<>&]\n\u00e9 ", max_size=60), max_size=6), st.integers(1, 80), st.integers(1, 400))
def test_pages_come_back_as_they_were_written_however_the_bytes_are_cut(found, step, own):
    """Of any chunking; and two parts that divide the bytes anywhere own each page once."""
    data = dump([page(str(number), text.replace("\r", ""), number=number) for number, text in enumerate(found)])
    expected = [text for text in found]
    border = min(own * 7, len(data))

    def chunks(start, stop):
        for place in range(start, len(data), step):
            for begin, end in ((place, min(place + step, max(stop, place))), (max(place, stop), place + step)):
                if begin < min(end, place + step, len(data)):
                    yield Chunk(data[begin : min(end, place + step)], begin < stop)

    first, second = list(read_pages(chunks(0, border), 10**6)), list(read_pages(chunks(border, len(data)), 10**6))
    assert texts(list(read_pages(chunks(0, len(data)), 10**6))) == expected
    assert texts(first) + texts(second) == expected and flaws([*first, *second]) == []


def test_a_page_knows_what_it_is(tmp_path):
    path = tmp_path / "a.xml"
    old = page("C", "#redirect [[D]]", number=3)
    css = page("D", ".a {}", number=4, namespace=8, model="css")
    path.write_bytes(dump([page("A", "x", redirect="B"), page("B", "y", number=2), old, css]))
    found = pages_of(path, 10**6)
    assert [one.is_redirect for one in found] == [True, False, True, False]
    assert [(one.namespace, one.model, one.revision) for one in found][1::2] == [
        (0, "wikitext", "1002"),
        (8, "css", "1004"),
    ]


def test_the_last_revision_is_taken(tmp_path):
    path = tmp_path / "a.xml"
    both = page("A", "new").replace("<revision>", "<revision><id>7</id><text>old</text></revision>\n<revision>")
    path.write_bytes(dump([both]))
    assert texts(pages_of(path, 10**6)) == ["new"]


def test_names_of_namespaces_are_in_the_head(tmp_path):
    (tmp_path / "a.xml").write_bytes(dump(PAGES))
    names = site_of(read_part(Part(str(tmp_path / "a.xml")))).namespaces
    assert names[6] == "Datei" and names[14] == "Kategorie"


# ---- broken dumps -------------------------------------------------------------------------------------------------


def test_a_page_above_the_limit_is_skipped_and_the_next_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(dump([page("A", "a"), page("Huge", "x" * 5_000_000), page("B", "b")]))
    found = pages_of(path, 10**9, most=100_000)
    assert texts(found) == ["a", "b"] and flaws(found) == [(TOO_LARGE, "Huge")]
    assert 5_000_000 < found[1].size < 5_001_000


def test_of_a_page_above_the_limit_little_is_held():
    """50 MB in chunks of 1 MB, of which the window never holds three."""
    import tracemalloc

    def chunks():
        yield Chunk(SITE.encode() + b"<page><title>Huge</title>", True)
        for _ in range(50):
            yield Chunk(b"x" * (1 << 20), True)
        yield Chunk(b"</page>" + page("B", "b").encode() + END.encode(), True)

    tracemalloc.start()
    found = list(read_pages(chunks(), 100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert flaws(found) == [(TOO_LARGE, "Huge")] and texts(found) == ["b"] and found[0].size > 50 << 20
    assert peak < 5 << 20


def test_a_page_that_another_interrupts_is_named_and_the_other_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(dump([page("A", "a"), page("Cut", "c")[:150], page("B", "b")]))
    found = pages_of(path, 10**6)
    assert texts(found) == ["a", "b"] and flaws(found) == [(NO_END, "Cut")]


@pytest.mark.parametrize("cut", [60, 200, 330])
def test_a_truncated_dump_names_its_last_page_or_says_that_its_end_is_missing(tmp_path, cut):
    path = tmp_path / "a.xml"
    data = dump([page("A", "a"), page("Last", "b" * 100)])
    path.write_bytes(data[: -len(END) - cut])
    found = pages_of(path, 10**6)
    assert texts(found)[:1] == ["a"] and flaws(found)[-1][0] in (NO_END, LOST)
    path.write_bytes(data[: -len(END)])
    found = pages_of(path, 10**6)
    assert len(texts(found)) == 2 and flaws(found) == [(LOST, "the file ends before </mediawiki>")]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"\0", "NUL byte"),
        (b"<b>", "not well-formed XML"),
        (b"&nbsp;", "not well-formed XML"),
    ],
)
def test_a_page_that_is_no_xml_is_named_with_the_reason(tmp_path, bad, why):
    path = tmp_path / "a.xml"
    path.write_bytes(dump([page("A", "a"), page("Bad", "HERE"), page("B", "b")]).replace(b"HERE", bad))
    found = pages_of(path, 10**6)
    assert texts(found) == ["a", "b"]
    ((kind, where),) = flaws(found)
    assert kind == NOT_XML and where.startswith("Bad: ") and why in where


def test_a_broken_stream_loses_its_pages_and_no_more(tmp_path):
    data, _ = multistream(PAGES, 10)
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(data)
    starts = stream_starts(path)
    broken = bytearray(data)
    broken[starts[2] + 60 : starts[2] + 70] = b"0123456789"
    path.write_bytes(broken)
    for size in (1, 10**7):
        found = pages_of(path, size)
        kept = texts(found)
        assert kept == [text for text in TEXTS if text in kept] and set(TEXTS[:10] + TEXTS[20:]) <= set(kept)
        assert f"broken bzip2 stream at byte {starts[2]}" in dict(flaws(found))[LOST]


def test_a_truncated_stream_is_named(tmp_path):
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(dump(PAGES))[:-50])
    assert "has no end" in dict(flaws(pages_of(path, 10**7)))[LOST]
    assert "truncated: the file ends at" in dict(flaws(pages_of(path, 1)))[LOST]


def test_bytes_between_streams_are_named(tmp_path):
    first, second = dump(PAGES)[:2000], dump(PAGES)[2000:]
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(first) + b"garbage" + bz2.compress(second))
    found = pages_of(path, 10**7)
    assert "no bzip2 stream at byte" in dict(flaws(found))[LOST]
    assert TEXTS[-1] in texts(found)


def test_the_header_of_a_stream_is_known():
    assert STREAM.match(bz2.compress(b"x")) and STREAM.match(bz2.compress(b"")) and STREAM.match(bz2.compress(b"x", 1))
