"""A benchmark from folders to files: what can be refused is refused before anything is timed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ofa.benchmark.figure import picture
from ofa.benchmark.measure import Setting, measure_memory, measure_times, say
from ofa.benchmark.models import BenchmarkError, check_together, described, places_of
from ofa.benchmark.process import in_fresh_process
from ofa.benchmark.report import Benchmark, as_json, load_before, markdown
from ofa.benchmark.scoring import Asked, score
from ofa.benchmark.speed import Measured
from ofa.files import write_bytes, write_text

JSON_FILE, TABLE_FILE, PICTURE_FILE = "benchmark.json", "table.md", "benchmark.png"


def run_benchmark(folders: Iterable[str], dense: str | None, setting: Setting, asked: Asked) -> Benchmark:
    """Score, time and weigh models.

    Args:
        folders: `NAME=FOLDER` or `FOLDER`, see `ofa.benchmark.models`.
        dense: name of the model that speed-ups are over; None: there are none.
        setting: at which sizes.
        asked: of the task.

    Raises:
        ValueError: of many kinds: a folder is no model, was changed or needs a package; models that cannot be compared;
            scores are asked for and cannot be had.
    """
    before = load_before()
    _check_threads(setting)
    models = [described(place) for place in places_of(folders)]
    check_together(models, dense, max(setting.lengths))
    scores = score(models, asked, threads=max(setting.threads))
    places = [model.place for model in models]
    times = [one for count in setting.threads for one in in_fresh_process(measure_times, places, setting, count)]
    say("memory: one process a model")
    memory = {place.key: in_fresh_process(measure_memory, place, setting) for place in places}
    return Benchmark(Measured(models, dense, times), scores, memory, setting, before)


def _check_threads(setting: Setting) -> None:
    cores = len(os.sched_getaffinity(0))
    if max(setting.threads) > cores:
        raise BenchmarkError(
            f"--threads {max(setting.threads)}, and this process may use {cores} cores: threads would wait for each "
            "other, and their times say nothing"
        )


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace figures without being told.

    Raises:
        BenchmarkError: some are there.
    """
    if (folder / JSON_FILE).exists() and not overwrite:
        raise BenchmarkError(f"{folder / JSON_FILE} is there already: give --overwrite, or another --output")


def write(folder: Path, found: Benchmark) -> list[Path]:
    """Write the files; those of an earlier benchmark are replaced, or go."""
    folder.mkdir(parents=True, exist_ok=True)
    image = picture(found)
    write_text(folder / JSON_FILE, json.dumps(as_json(found), indent=1) + "\n")
    write_text(folder / TABLE_FILE, markdown(found))
    if image is None:
        (folder / PICTURE_FILE).unlink(missing_ok=True)
        return [folder / JSON_FILE, folder / TABLE_FILE]
    write_bytes(folder / PICTURE_FILE, image)
    return [folder / name for name in (JSON_FILE, TABLE_FILE, PICTURE_FILE)]
