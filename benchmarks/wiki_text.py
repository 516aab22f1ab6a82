"""Wikitext to plain text: how fast, in how much memory, and beside what WikiExtractor makes of the same pages.

    python benchmarks/wiki_text.py --dump DUMP.xml.bz2 [--extracted FOLDER] [--rounds 3] [--json]

`megabytes_per_second`: of one core; `wikitext` counts the bytes of wikitext of articles, `dump` those of the XML that
is read (redirects and markup of the dump included), `text` those of what is left. `core_hours_english_wikipedia`: the
articles' text of a dump of 2023, 21 GB, at the rate of `text`. `parser_alone`: seconds of mwparserfromhell on whole
pages over those of all that is done here. `scaling_2_workers` and `memory_growth`: of the whole command on copies of
the dump, ten times as many for the second; the first says nothing unless two cores are idle.
With `--extracted`, of the pages that both have: words of either, marks of markup that are left in ten thousand words,
and of the runs of six words that WikiExtractor has and the source too, the share that is here as well. The two may be
of dumps of different days.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.made_by import in_words, made_by
from benchmarks.watched import Ran, watched
from data_prep import sources
from data_prep.tally import Tally
from data_prep.wiki.files import Chunk
from data_prep.wiki.pages import Page, read_pages
from data_prep.wiki.text import TextOptions, to_text
from ofa.config import CHECKOUT, SourceConfig
from ofa.tables import table
from ofa.timing import ratios

ENGLISH_WIKIPEDIA = 21e9
"""Bytes of plain text of all articles, of wikimedia/wikipedia 20231101.en: an estimate, not measured here."""

GROWTH = 10
RUN = 6
MARKUP = {
    "brackets": r"\[\[|\]\]|\{\{|\}\}",
    "tags": r"</?(?:ref|br|div|span|dl|poem|small|sub|sup|i|b|td|tr|table|math|gallery|blockquote|nowiki)\b[^<>]*>",
    "quotes": r"'{2,}",
    "entities": r"&(?:[a-z]+|#\d+);",
    "tables": r"(?m)^\s*(?:\{\||\|[-}+]|[|!] )|(?:class|style|align|colspan|bgcolor) *= *[\"']",
    "empty brackets": r"\([ ,;\]]*\)|\( *[;,]|[;,] *\)",
    "placeholders": r"\b(?:formula|codice)_\d+",
    "lonely commas": r" [,;](?= )|[,;] *[,;]",
}
"""What a reader would not see on the page."""


def main() -> int:
    """Measure and print."""
    options = arguments()
    found = measure(options)
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--extracted", type=Path, help="a folder of wiki_00, ... that WikiExtractor has written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4, help="of the dump, for workers and memory (default: 4)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, as the JSON output has them."""
    data = bz2.decompress(options.dump.read_bytes()) if options.dump.suffix == ".bz2" else options.dump.read_bytes()
    pages = [one for one in read_pages([Chunk(data, True)], 10**8) if isinstance(one, Page) and not one.is_redirect]
    articles = [page for page in pages if page.namespace == 0]
    texts: dict[str, str] = {}
    seconds = [timed_texts(articles, texts) for _ in range(options.rounds)]
    whole = [timed_documents(options.dump) for _ in range(options.rounds)]
    parser = timed_parser(articles)
    sizes = {
        "wikitext": sum(len(page.text.encode()) for page in articles),
        "text": sum(len(text.encode()) for text in texts.values()),
        "dump": len(data),
    }
    per_core = {"wikitext": sizes["wikitext"] / statistics.median(seconds)}
    per_core |= {"text": sizes["text"] / statistics.median(whole), "dump": sizes["dump"] / statistics.median(whole)}
    found = {
        "articles": len(articles),
        "bytes": sizes,
        "megabytes_per_second": {name: rate / 1e6 for name, rate in per_core.items()},
        "core_hours_english_wikipedia": ENGLISH_WIKIPEDIA / per_core["text"] / 3600,
        "parser_alone": parser / statistics.median(seconds),
        "seconds": {"texts": seconds, "documents": whole, "parser": parser},
        **commands(data, options.copies, options.rounds),
        **made_by(threads=1),
    }
    if options.extracted:
        found["beside_wikiextractor"] = compare(articles, texts, options.extracted)
    return found


def timed_texts(articles: list[Page], texts: dict[str, str]) -> float:
    """CPU seconds of wikitext to text; the texts go to `texts` by page id."""
    options, counts = TextOptions(), Counter()
    began = time.process_time()
    for page in articles:
        texts[page.id] = to_text(page.text, options, counts)
    return time.process_time() - began


def timed_documents(dump: Path) -> float:
    """CPU seconds of the source: decompression, XML, and text."""
    source = SourceConfig(kind="mediawiki", paths=[str(dump)], on_damage="skip")
    began = time.process_time()
    for unit in sources.units(source, 10**9):
        for _ in sources.read(source, unit, Tally()):
            pass
    return time.process_time() - began


def timed_parser(articles: list[Page]) -> float:
    """CPU seconds of the parser and its `strip_code` on whole pages."""
    import mwparserfromhell  # an extra

    began = time.process_time()
    for page in articles:
        mwparserfromhell.parse(page.text).strip_code()
    return time.process_time() - began


# ---- the whole command ------------------------------------------------------------------------------------------


def commands(data: bytes, copies: int, rounds: int) -> dict[str, Any]:
    """`scaling_2_workers` and `memory_growth`."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_copies(place / "few", data, copies)
        write_copies(place / "many", data, copies * GROWTH)
        one: list[Ran] = []
        two: list[Ran] = []
        for _ in range(rounds):
            one.append(run(place, "few", 1))
            two.append(run(place, "few", 2))
        many = run(place, "many", 1)
    growth = {"main": many.main_bytes / one[0].main_bytes, "worker": many.worker_bytes / one[0].worker_bytes}
    return {
        "scaling_2_workers": ratios([ran.seconds for ran in one], [ran.seconds for ran in two])["median"],
        "memory_growth": max(growth.values()),
        "memory_bytes": {"main": one[0].main_bytes, "worker": one[0].worker_bytes},
    }


def write_copies(folder: Path, data: bytes, copies: int) -> None:
    """Dumps, each with other words in every article, so that no document is another's copy."""
    folder.mkdir()
    for copy in range(copies):
        (folder / f"{copy:03d}.xml").write_bytes(data.replace(b" the ", f" the{copy} ".encode()))


def run(place: Path, dumps: str, workers: int) -> Ran:
    """The command on a folder of dumps."""
    config = {
        "source": {"kind": "mediawiki", "paths": [str(place / dumps)], "on_damage": "skip"},
        "tokenizer": {"vocab_size": 4000},
        "shard_characters": 4_000_000,
    }
    with tempfile.TemporaryDirectory(dir=place) as fresh:
        (Path(fresh) / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "data_prep", "--config", f"{fresh}/config.json", "--output", f"{fresh}/output"]
        environment = {"PYTHONPATH": str(CHECKOUT), "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return watched([*command, "--workers", str(workers)], {**os.environ, **environment})


# ---- beside WikiExtractor ---------------------------------------------------------------------------------------


def compare(articles: list[Page], texts: dict[str, str], folder: Path) -> dict[str, Any]:
    """Words, markup left, and what either lacks, of the pages that both have."""
    extracted = dict(raw_documents(folder))
    both = [page for page in articles if page.id in extracted]
    ours, theirs = [texts[page.id] for page in both], [extracted[page.id] for page in both]
    shared = kept = 0
    for page, our, their in zip(both, ours, theirs, strict=True):
        source, mine = runs(visible(page.text)), runs(our)
        wanted = runs(their) & source
        shared += len(wanted)
        kept += len(wanted & mine)
    return {
        "pages": len(both),
        "words": {"ours": words_of(ours), "theirs": words_of(theirs)},
        "markup": {name: {"ours": left(ours, name), "theirs": left(theirs, name)} for name in MARKUP},
        "their_runs_in_source": shared,
        "share_kept": kept / shared if shared else float("nan"),
    }


def raw_documents(folder: Path) -> Iterable[tuple[str, str]]:
    """Id and text of WikiExtractor's blocks, as they are."""
    for path in sorted(path for path in folder.rglob("*wiki_*") if path.is_file()):
        for match in re.finditer(r'<doc id="(\d+)"[^>]*>\n(.*?)\n</doc>', path.read_text(), re.DOTALL):
            yield match[1], match[2]


def visible(wikitext: str) -> str:
    """Wikitext with the plainest markup taken away, by other means than those that are measured."""
    text = re.sub(r"<ref[^<>]*/>|<ref[^<>]*>.*?</ref>|<!--.*?-->", "", wikitext, flags=re.DOTALL)
    return re.sub(r"'{2,}|<[^<>]*>", "", re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text))


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of six words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}


def words_of(texts: list[str]) -> int:
    """Words of all texts."""
    return sum(len(re.findall(r"\w+", text)) for text in texts)


def left(texts: list[str], kind: str) -> float:
    """Marks of a kind in ten thousand words."""
    return sum(len(re.findall(MARKUP[kind], text)) for text in texts) / max(1, words_of(texts)) * 1e4


# ---- what was found ---------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """Tables and lines."""
    rates = found["megabytes_per_second"]
    lines = [
        f"{found['articles']} articles, {found['bytes']['wikitext'] / 1e6:.1f} MB of wikitext, "
        f"{found['bytes']['text'] / 1e6:.1f} MB of text",
        f"MB/s of one core    wikitext to text {rates['wikitext']:.2f}, from the dump: {rates['dump']:.2f} of XML, "
        f"{rates['text']:.2f} of text",
        f"parser_alone        {found['parser_alone']:.2f}  (mwparserfromhell on whole pages, over all of it)",
        f"English Wikipedia   {found['core_hours_english_wikipedia']:.1f} core-hours, extrapolated",
        f"scaling_2_workers   {found['scaling_2_workers']:.2f}",
        f"memory_growth       {found['memory_growth']:.2f}  (ten times the dumps; a worker "
        f"{found['memory_bytes']['worker'] / 2**20:.0f} MiB)",
    ]
    beside = found.get("beside_wikiextractor")
    if beside:
        rows = [["words", f"{beside['words']['ours']:,}", f"{beside['words']['theirs']:,}"]]
        rows += [
            [f"{name} / 10,000 words", *(f"{both[who]:.2f}" for who in ("ours", "theirs"))]
            for name, both in beside["markup"].items()
        ]
        lines += ["", table([f"{beside['pages']} pages", "here", "WikiExtractor"], rows)]
        lines.append(
            f"of {beside['their_runs_in_source']:,} runs of six words that it has from the source, "
            f"{beside['share_kept']:.2%} are here"
        )
    return "\n".join([*lines, in_words(found)])


if __name__ == "__main__":
    sys.exit(main())
