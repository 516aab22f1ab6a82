"""What data preparation costs beside the tokenizer: text to shards against the same sentences encoded in batches.

    python benchmarks/data_prep.py [--json] [--text FILE...] [--tokenizer FOLDER] [--megabytes 32] [--quick]

`ratio_to_tokenizer`: seconds of `encode_batch_fast` over sentences that are already split and in memory, over seconds
of the whole command `python -m data_prep` with one worker, by mode and sentence splitter. `scaling_2_workers`: one
worker's seconds over those of two. In both the start of the processes counts, some seconds whatever the text; in
`..._without_start` it does not, and `ratio_of_cpu_seconds` is steadier on a busy machine. `memory_growth`: peak
resident memory of a worker or the main process, whichever grows more, with ten numbered copies of the text over that
with one. `rerun_share`: a run that finds everything made, over the first. Runs take turns; ratios are medians over
rounds.
`holds`: by figure that is judged, whether it keeps its limit: `ratio_to_tokenizer` with no splitter and with the rule
splitter at least 0.8, each against the same sentences, and `memory_growth` at most 1.1. The exit status is 1 if one
does not, as with so little text as of --quick, where the start is most of the time. Not judged: nupunkt, a model that
users choose for its splits, and `scaling_2_workers`, which says nothing unless two cores are idle.
Default text: docstrings of installed packages, with a vocabulary trained on them before any clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

import numpy as np

from benchmarks.made_by import in_words, made_by
from benchmarks.watched import Ran, watched
from data_prep import sources
from data_prep.clean import clean, fingerprint
from data_prep.sentences import splitter
from data_prep.tally import Tally
from data_prep.tokenizer import build, encoder
from ofa.config import CHECKOUT, CleanConfig, SourceConfig, TokenizerConfig
from ofa.tables import table
from ofa.timing import interleaved, ratios

VARIANTS = {
    "documents": ("doc_sentences", "none"),
    "sentences": ("doc_sentences", "rule"),
    "pairs": ("segment_pair_nsp", "rule"),
    "sentences_nupunkt": ("doc_sentences", "nupunkt"),
}
"""Key in the result: mode, sentence splitter."""

DOCSTRINGS = ["torch", "transformers", "numpy", "deepspeed", "datasets", "scipy", "pandas", "scikit-learn"]
"""Distributions whose docstrings are the text where none is given."""

FILES = 24
"""The text is divided among so many files, so that workers share it evenly."""

BATCH_CHARACTERS = 500_000
"""Of the raw encoding; larger batches are no faster."""

LEAST_RATIO = {"documents": 0.8, "sentences": 0.8, "pairs": 0.8}
"""Of `VARIANTS`, the smallest `ratio_to_tokenizer` that counts as good."""

MOST_GROWTH = 1.1
"""Largest `memory_growth` that counts as flat. Ten times the text in memory would be several times as much; peaks of
equal runs differ by some per cent, and the marks of documents seen, a few bytes each, do grow."""

GROWTH = 10
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Bench:
    """The text, the tokenizer, and a place for what is made."""

    place: Path
    texts: list[str]
    """Cleaned documents, none twice."""
    tokenizer: Path

    @property
    def characters(self) -> int:
        """Of all documents."""
        return sum(map(len, self.texts))


def main() -> int:
    """Measure and print; returns the exit status."""
    options = arguments()
    os.environ.update(ONE_THREAD)
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        found = measure(options, Path(place))
    print(json.dumps(found, indent=1) if options.json else report(found))
    return 0 if all(found["holds"].values()) else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", help="files or folders as source.paths takes them (.txt, .jsonl, ...)")
    parser.add_argument("--tokenizer", help="a local folder; default: trained on the text")
    parser.add_argument("--megabytes", type=float, default=32.0, help="million characters to prepare")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, help="where temporary files go: some 50 times the text")
    parser.add_argument("--quick", action="store_true", help="one round of a little text: does everything run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 0.5, 1
    return options


def measure(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Every ratio, as the JSON output has them."""
    bench = prepare_bench(options, place)
    write_files(place / "text", bench.texts)
    write_files(place / "document", bench.texts[:1])
    works: dict[str, Callable[[], Ran]] = {}
    for name, (_, kind) in VARIANTS.items():
        split = splitter(kind)
        sentences = [sentence for text in bench.texts for sentence in split(text)]
        works[f"{name}: tokenizer"] = lambda sentences=sentences: encoding(bench, sentences)
        works[f"{name}: command"] = lambda name=name: run(bench, name, "text")
    works["one document: command"] = lambda: run(bench, "documents", "document")
    works["2 workers"] = lambda: run(bench, "sentences", "text", workers=2)
    works["finished"] = lambda: run(bench, "sentences", "text", keep="finished")
    run(bench, "sentences", "text", keep="finished")
    seconds, cpu_seconds = in_turns(works, options.rounds)
    command = seconds["sentences: command"]
    start = statistics.median(seconds["one document: command"])
    found = {
        "ratio_to_tokenizer": {name: share_of(seconds, name) for name in VARIANTS},
        "ratio_without_start": {name: share_of(seconds, name, start=start) for name in VARIANTS},
        "ratio_of_cpu_seconds": {name: share_of(cpu_seconds, name) for name in VARIANTS},
        "start_seconds": start,
        "scaling_2_workers": ratios(command, seconds["2 workers"])["median"],
        "scaling_without_start": ratios(less(command, start), less(seconds["2 workers"], start))["median"],
        **memory_growth(bench),
        "rerun_share": ratios(seconds["finished"], command)["median"],
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "rounds": {"seconds": seconds, "cpu_seconds": cpu_seconds},
        "characters": bench.characters,
        "documents": len(bench.texts),
        "text": options.text or f"docstrings of python, {', '.join(DOCSTRINGS)}",
        **made_by(threads=1),
    }
    return {**found, "holds": judged(found)}


def judged(found: dict[str, Any]) -> dict[str, bool]:
    """Whether each figure that is judged keeps its limit, by variant, and `memory_growth`; what is no number does
    not."""
    kept = {name: found["ratio_to_tokenizer"][name] >= least for name, least in LEAST_RATIO.items()}
    return {**kept, "memory_growth": found["memory_growth"] <= MOST_GROWTH}


def in_turns(works: dict[str, Callable[[], Ran]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall seconds and CPU seconds of each work, round by round."""
    cpu: dict[str, list[float]] = {name: [] for name in works}

    def seconds_of(name: str) -> float:
        ran = works[name]()
        cpu[name].append(ran.cpu_seconds)
        return ran.seconds

    return interleaved({name: lambda _, name=name: seconds_of(name) for name in works}, rounds), cpu


def share_of(seconds: dict[str, list[float]], name: str, *, start: float = 0.0) -> float:
    """Median ratio of the tokenizer's seconds to those of the command less its start."""
    return ratios(seconds[f"{name}: tokenizer"], less(seconds[f"{name}: command"], start))["median"]


def less(seconds: list[float], start: float) -> list[float]:
    """Each without the start; a busy machine may have taken longer to start than to do all."""
    return [max(whole - start, 1e-9) for whole in seconds]


# ---- the text ---------------------------------------------------------------------------------------------------


def prepare_bench(options: argparse.Namespace, place: Path) -> Bench:
    """Read, clean and cut the text; train the vocabulary if there is none."""
    texts, characters, seen = [], 0, set()
    for text in documents(options.text):
        mark = fingerprint(text)
        if mark not in seen:
            seen.add(mark)
            texts.append(text)
            characters += len(text)
        if characters >= options.megabytes * 1e6:
            break
    config = TokenizerConfig(init=options.tokenizer, vocab_size=8192)
    build(place / "tokenizer", config, 512, lambda: texts)
    return Bench(place, texts, place / "tokenizer")


def documents(paths: list[str] | None) -> Iterator[str]:
    """Cleaned documents of files, or of installed packages."""
    if paths:
        source = SourceConfig(kind="text", paths=paths)
    else:
        source = SourceConfig(kind="docstrings", distributions=DOCSTRINGS)
    counts = Tally()
    for unit in sources.units(source, 10**9):
        for document in sources.read(source, unit, counts):
            text = clean(document.text, CleanConfig(min_characters=40), counts)
            if text is not None:
                yield text


def write_files(folder: Path, texts: list[str]) -> None:
    """The documents as JSON lines, in files of about as much text."""
    folder.mkdir()
    ends = np.cumsum([len(text) for text in texts])
    numbers = np.minimum(ends * FILES // ends[-1], FILES - 1)
    for number in range(FILES):
        with (folder / f"{number:02d}.jsonl").open("w") as file:
            for index in np.flatnonzero(numbers == number):
                file.write(json.dumps({"id": str(index), "text": texts[index]}) + "\n")


# ---- what is timed ----------------------------------------------------------------------------------------------


def encoding(bench: Bench, sentences: list[str]) -> Ran:
    """`encode_batch_fast` alone, in batches; nothing is done with the result."""
    tokenizer = encoder(bench.tokenizer)
    batches: list[list[str]] = [[]]
    characters = 0
    for sentence in sentences:
        if characters >= BATCH_CHARACTERS:
            batches.append([])
            characters = 0
        batches[-1].append(sentence)
        characters += len(sentence)
    began, cpu_began = time.perf_counter(), time.process_time()
    for batch in batches:
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    return Ran(time.perf_counter() - began, time.process_time() - cpu_began, 0, 0)


def run(bench: Bench, variant: str, text: str, *, workers: int = 1, keep: str | None = None) -> Ran:
    """Prepare folder `text` in a variant by the command line; `keep` names an output that may be there and stays."""
    mode, kind = VARIANTS[variant]
    config = {
        "validation_share": 0.05 if len(bench.texts) > 1 and text != "document" else 0.0,
        "source": {"kind": "text", "paths": [str(bench.place / text)]},
        "tokenizer": {"init": str(bench.tokenizer)},
        "mode": mode,
        "sentences": kind,
        "shard_characters": max(1000, bench.characters // FILES),
    }
    with tempfile.TemporaryDirectory(dir=bench.place) as fresh:
        (Path(fresh) / "config.json").write_text(json.dumps(config))
        output = bench.place / keep if keep else Path(fresh) / "output"
        command = [sys.executable, "-m", "data_prep", "--config", f"{fresh}/config.json", "--output", str(output)]
        return watched([*command, "--workers", str(workers)], {**ONE_THREAD, "PYTHONPATH": str(CHECKOUT)})


def memory_growth(bench: Bench) -> dict[str, float]:
    """Peak memory with all the text in numbered copies, over that with the text once."""
    copies = [f"Copy {copy}. {text}" for copy in range(GROWTH) for text in bench.texts]
    write_files(bench.place / "copies", copies)
    once, grown = run(bench, "sentences", "text"), run(bench, "sentences", "copies")
    of_main, of_worker = grown.main_bytes / once.main_bytes, grown.worker_bytes / once.worker_bytes
    sizes = {"main_bytes": once.main_bytes, "worker_bytes": once.worker_bytes}
    return {"memory_growth": max(of_main, of_worker), "main_growth": of_main, "worker_growth": of_worker, **sizes}


# ---- what was found ---------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """One table and the ratios with their thresholds."""
    seconds = found["seconds"]
    head = ["variant / mode / splitter", "tokenizer s", "command s", "Mchar/s", "ratio_to_tokenizer", "no start", "CPU"]
    head += ["at least", "holds"]
    rows = []
    for name, ratio in found["ratio_to_tokenizer"].items():
        command, alone = seconds[f"{name}: command"], seconds[f"{name}: tokenizer"]
        others = found["ratio_without_start"][name], found["ratio_of_cpu_seconds"][name]
        figures = (alone, command, found["characters"] / command / 1e6, ratio, *others)
        rows.append([" / ".join([name, *VARIANTS[name]]), *(f"{figure:.2f}" for figure in figures)])
        rows[-1] += [f"{LEAST_RATIO[name]:.1f}", said(found, name)] if name in LEAST_RATIO else ["-", "-"]
    main, worker = (f"{found[f'{who}_bytes'] / 2**20:.0f} MiB" for who in ("main", "worker"))
    no_start = found["scaling_without_start"]
    lines = [
        table(head, rows),
        "",
        f"scaling_2_workers  {found['scaling_2_workers']:.2f}  (not judged: wanted is 1.8, where two cores are idle; "
        f"no start: {no_start:.2f})",
        f"memory_growth      {found['memory_growth']:.2f}  (at most {MOST_GROWTH}; with the text once {main}, a worker "
        f"{worker}): {said(found, 'memory_growth')}",
        f"rerun_share        {found['rerun_share']:.3f}",
        f"start_seconds      {found['start_seconds']:.2f}  (the command on one document)",
    ]
    lines.append(f"{found['characters'] / 1e6:.1f} M characters in {found['documents']:,} documents; {found['text']}")
    lines.append(in_words(found))
    return "\n".join(lines)


def said(found: dict[str, Any], figure: str) -> str:
    """`yes` or `NO`."""
    return "yes" if found["holds"][figure] else "NO"


if __name__ == "__main__":
    sys.exit(main())
