"""Blocks of a bzip2 stream, read one by one."""

import bz2
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.wiki import blocks
from data_prep.wiki.blocks import next_block, read_blocks
from data_prep.wiki.files import Part, parts, read_part
from data_prep.wiki.pages import LOST, Flaw, Page, read_pages
from tests.dumps import dump, page

WORDS = ["".join(random.Random(number).choices("etaoinshrdlu", k=7)) for number in range(5000)]


def text_of(seed, size):
    """Words that compress to about half, in bytes."""
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, k=size // 8)).encode()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 500_000), st.integers(1, 9))
def test_the_blocks_of_a_stream_are_its_bytes(seed, size, level):
    data = text_of(seed, size) + b"x"
    packed = bz2.compress(data, level)
    start = next_block(packed, 0)
    assert start == 32
    found = list(read_blocks(packed, start))
    assert b"".join(text for _, text in found if text is not None) == data
    assert [next_block(packed, place) for place, _ in found] == [place for place, _ in found]


def test_streams_that_follow_each_other_are_read_on():
    first, second = text_of(1, 250_000), text_of(2, 250_000)
    packed = bz2.compress(first, 1) + bz2.compress(second, 1)
    assert b"".join(text for _, text in read_blocks(packed, 32) if text) == first + second


def test_a_broken_block_is_the_only_one_that_is_lost():
    data = text_of(3, 500_000)
    packed = bytearray(bz2.compress(data, 1))
    whole = list(read_blocks(bytes(packed), 32))
    place = whole[2][0] // 8 + 500
    packed[place : place + 8] = b"\xff" * 8
    found = list(read_blocks(bytes(packed), 32))
    assert [text is None for _, text in found] == [number == 2 for number in range(len(whole))]
    assert all(text in (None, other) for (_, text), (_, other) in zip(found, whole, strict=True))


def test_bits_that_only_look_like_a_beginning_cost_nothing(monkeypatch):
    """By chance they stand once in 30 terabytes; here one is put into the search's mouth."""
    packed = bz2.compress(text_of(5, 250_000), 1)
    whole, told = list(read_blocks(packed, 32)), []
    end_of = blocks._end_of

    def one_too_early(data, start):
        told.append(start)
        return start + 999 if len(told) == 2 else end_of(data, start)

    monkeypatch.setattr(blocks, "_end_of", one_too_early)
    assert list(read_blocks(packed, 32)) == whole and len(told) > len(whole)


def test_a_truncated_block_is_none():
    packed = bz2.compress(text_of(4, 250_000), 1)
    assert list(read_blocks(packed[:-100], 32))[-1][1] is None


PAGES = [page(f"T{number}", text_of(number, 3000).decode(), number=number) for number in range(400)]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A dump of one stream of many blocks."""
    path = tmp_path_factory.mktemp("single") / "a.xml.bz2"
    path.write_bytes(bz2.compress(dump(PAGES), 1))
    return path


@pytest.mark.parametrize("size", [50_000, 130_000, 10**7])
def test_a_dump_of_one_stream_is_cut_at_its_blocks(single, size):
    divided = parts(single, size)
    assert all(Part.parse(str(part)) == part for part in divided)
    assert (len(divided) > 3) == (size < 10**6) and divided[0].in_bits == (size < 10**6)
    found = [one for part in divided for one in read_pages(read_part(part), 10**6)]
    assert [one.title for one in found if isinstance(one, Page)] == [f"T{number}" for number in range(400)]
    assert not [one for one in found if isinstance(one, Flaw)]


def test_a_broken_block_of_a_dump_loses_its_pages_and_is_named(single, tmp_path):
    data = bytearray(single.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8] = b"\0" * 8
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(data)
    found = [one for part in parts(path, 50_000) for one in read_pages(read_part(part), 10**6)]
    kept = [one for one in found if isinstance(one, Page)]
    assert 330 < len(kept) < 400 and len({one.id for one in kept}) == len(kept)
    assert sum(one.kind == LOST and "bzip2 block at byte" in one.where for one in found if isinstance(one, Flaw)) == 1
