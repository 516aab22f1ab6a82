"""Seconds and memory of models, each measured by a process of its own.

Times: all models are open in one process of one thread count and take turns, so that a disturbance meets all of them.
A turn is a call that is not counted and one that is: after other models' turns neither the processor's caches nor the
threads of a runtime are as they are in service, where one model answers again and again.

Memory: a process that has imported everything opens one model and asks it twice. What it then has held at most, less
what it had before, is the model's: weights, what the runtime makes of them, and what a forward needs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ofa.benchmark.models import Place
from ofa.benchmark.rows import random_batch
from ofa.inference import load
from ofa.runtimes.extras import load as load_package
from ofa.runtimes.formats import FORMATS
from ofa.timing import interleaved, timed


@dataclass(frozen=True)
class Setting:
    """At which sizes, and how often."""

    batches: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (128,)
    """Tokens of a row."""
    threads: tuple[int, ...] = (1,)
    rounds: int = 31
    """In which each model is timed once."""
    warm_up: int = 2
    """Rounds before these, which do not count."""
    seed: int = 0
    """Of the words."""

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "rows": "random words, no padding", "device": "cpu"}


@dataclass(frozen=True)
class Times:
    """Of one model at one size."""

    place: Place
    threads: int
    batch: int
    length: int
    seconds: tuple[float, ...]
    """Of one forward, by round."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Threads, batch and length."""
        return self.threads, self.batch, self.length


def measure_times(places: Sequence[Place], setting: Setting, threads: int) -> list[Times]:
    """Time all models at all sizes with one thread count, which this process then has for good."""
    torch.set_num_threads(threads)
    predictors = {place: load(place.folder, threads=threads, device="cpu") for place in places}
    found = []
    for length in setting.lengths:
        for batch in setting.batches:
            began = time.monotonic()
            works = {
                place: turn(predictor.outputs_of, random_batch(predictor, batch, length, setting.seed))
                for place, predictor in predictors.items()
            }
            with torch.no_grad():
                interleaved(works, setting.warm_up)
                seconds = interleaved(works, setting.rounds)
            found += [Times(place, threads, batch, length, tuple(own)) for place, own in seconds.items()]
            say(f"{size_in_words(threads, batch, length)}: {setting.rounds} rounds in {time.monotonic() - began:.0f} s")
    return found


def turn(work: Callable[[Any], object], batch: Any) -> Callable[[int], float]:
    """A work of `ofa.timing.interleaved`: seconds of the second of two calls."""

    def one(_: int) -> float:
        work(batch)
        return timed(lambda: work(batch))

    return one


def measure_memory(place: Place, setting: Setting) -> dict[str, int]:
    """Bytes that a model holds when it is open, and at most, at the largest batch and length and the first thread
    count; this process is to have done nothing before."""
    if place.runtime in FORMATS:
        load_package(FORMATS[place.runtime].packages[-1])
    threads = setting.threads[0]
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError):  # what imports needed at most does not count, where the system can forget it
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    predictor = load(place.folder, threads=threads, device="cpu")
    opened = _resident("VmRSS") - before
    batch = random_batch(predictor, max(setting.batches), max(setting.lengths), setting.seed)
    with torch.no_grad():
        for _ in range(2):
            predictor.outputs_of(batch)
    return {"opened": opened, "peak": _resident("VmHWM") - before}


def _resident(key: str) -> int:
    """Bytes of this process; getrusage would count those of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def size_in_words(threads: int, batch: int, length: int) -> str:
    """`batch 8, length 128, 1 thread`"""
    return f"batch {batch}, length {length}, {threads} thread{'s' if threads > 1 else ''}"


def say(words: str) -> None:
    """How far it is; the table goes to the standard output."""
    print(words, file=sys.stderr, flush=True)
