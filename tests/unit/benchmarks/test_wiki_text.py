"""The wikitext benchmark: what it counts, and once the whole of it."""

import bz2
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mwparserfromhell")

from benchmarks import wiki_text as bench
from data_prep.wiki.pages import Page
from tests.dumps import dump, page

CHECKOUT = Path(__file__).resolve().parents[3]
WORDS = "one two three four five six seven eight nine ten"


def test_marks_of_markup_are_told_from_prose():
    prose = ["A (born 1900) said: 'I am; x < y', and 3 | 4 [sic].", "f(x, y) is ... so (it seems)."]
    assert {name: bench.left(prose, name) for name in bench.MARKUP} == dict.fromkeys(bench.MARKUP, 0.0)
    marked = ["a {{b}} <ref>c</ref> ''d'' &nbsp; ( ; e) formula_1 , f\n| g\n"]
    assert all(bench.left(marked, name) > 0 for name in bench.MARKUP)


def test_what_is_lost_is_seen(tmp_path):
    """Of the runs that the other program has and the source too, only those that are here count as kept."""
    block = '<doc id="1" url="u" title="T">\nT\n\n{}\n\n</doc>\n'
    (tmp_path / "wiki_00").write_text(block.format(f"{WORDS} only there and nowhere else at all"))
    article = Page("T", "1", 0, "wikitext", False, "", f"'''{WORDS}'''<ref>x</ref>")
    whole = bench.compare([article], {"1": WORDS}, tmp_path)
    assert whole["pages"] == 1 and whole["share_kept"] == 1.0 and whole["their_runs_in_source"] == 5
    half = bench.compare([article], {"1": "one two three four five six seven"}, tmp_path)
    assert half["share_kept"] == pytest.approx(2 / 5)


@pytest.mark.slow
def test_the_whole_benchmark_runs_small(tmp_path):
    """PERF-24, the rows: memory does not grow with the dump."""
    pages = [
        page(f"T{number}", f"'''T{number}''' is [[a]] the b. {WORDS}.\n\n" * 50, number=number) for number in range(80)
    ]
    (tmp_path / "d.xml.bz2").write_bytes(bz2.compress(dump(pages)))
    command = [
        sys.executable,
        "benchmarks/wiki_text.py",
        "--dump",
        str(tmp_path / "d.xml.bz2"),
        "--rounds",
        "1",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True)
    found = json.loads(done.stdout)
    assert found["articles"] == 80 and found["megabytes_per_second"]["wikitext"] > 0
    assert found["memory_growth"] < 1.5
