"""The report: figures in; JSON, a Markdown table and a picture out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofa.benchmark.measure import Setting, size_in_words
from ofa.benchmark.models import Model, runtime_name
from ofa.benchmark.scoring import Scores
from ofa.benchmark.speed import Measured, Speedup, missing, noise, remarks
from ofa.files import ZSTD_LEVEL
from ofa.run_folder import surroundings
from ofa.runtimes.extras import version
from ofa.runtimes.formats import FORMATS
from ofa.tables import markdown_rows, table
from ofa.timing import percentiles

MEGABYTE = 1e6
NOT_SCORED = "not scored"


@dataclass(frozen=True)
class Benchmark:
    """All that was found."""

    measured: Measured
    scores: Scores
    memory: Mapping[tuple[str, str], Mapping[str, int]]
    """By `Place.key`: see `ofa.benchmark.measure.measure_memory`."""
    setting: Setting
    load: float
    """Processes that ran here in the minute before."""

    def notes(self) -> list[str]:
        """What has to be said beside the figures."""
        measured, scores = self.measured, self.scores
        unscored = [] if scores.metric else [f"{NOT_SCORED}: {scores.of}"]
        return [*missing(measured.models, measured.dense), *remarks(measured), *unscored]


def as_json(found: Benchmark) -> dict[str, Any]:
    """Everything, each round's time included."""
    measured = found.measured
    around = surroundings()
    hardware = {key: value for key, value in around["hardware"].items() if key != "threads"}
    return {
        "command": " ".join(["python", f"launch/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **around,
        "hardware": {**hardware, "load_before": found.load},
        "versions": around["versions"] | _runtime_versions(measured.models),
        "setting": found.setting.described(),
        "dense": measured.dense,
        "zstd_level": ZSTD_LEVEL,
        "scored_on": found.scores.of if found.scores.metric else None,
        "metric": found.scores.metric,
        "models": [_described(model, found) for model in measured.models],
        "times": [_timed(one, measured.speedup(one)) for one in measured.times],
        "notes": found.notes(),
    }


def _described(model: Model, found: Benchmark) -> dict[str, Any]:
    fields = asdict(model)
    place = fields.pop("place")
    scores = found.scores.found.get(model.place.key)
    return {
        **place,
        **fields,
        "sparsity": model.sparsity,
        "file_sparsity": model.file_sparsity,
        "memory_bytes": dict(found.memory[model.place.key]),
        "scores": None if scores is None else dict(scores),
    }


def _timed(times: Any, speedup: Speedup | None) -> dict[str, Any]:
    found = percentiles(times.seconds)
    return {
        "name": times.place.name,
        "runtime": times.place.runtime,
        "threads": times.threads,
        "batch": times.batch,
        "length": times.length,
        "ms": found,
        "rows_per_second": 1e3 * times.batch / found["p50"],
        "noise": noise(times.seconds),
        "speedup": None if speedup is None else asdict(speedup),
        "rounds_ms": [round(1e3 * one, 4) for one in times.seconds],
    }


def _runtime_versions(models: Sequence[Model]) -> dict[str, str]:
    forms = dict.fromkeys(model.place.runtime for model in models if model.place.runtime in FORMATS)
    return {name: version(name) for name in (FORMATS[form].packages[-1] for form in forms)}


def console(found: Benchmark) -> str:
    """For people who wait for it."""
    parts = [part for title, head, rows in _tables(found) for part in (title, "", table(head, rows), "")]
    return "\n".join([*parts, *_below(found)])


def markdown(found: Benchmark) -> str:
    """The same as a file."""
    parts = [part for title, head, rows in _tables(found) for part in (f"{title}:", "", markdown_rows(head, rows), "")]
    return "\n".join([*parts, *(f"- {line}" for line in _below(found)), ""])


def _tables(found: Benchmark) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and cells: what the models are, then a table for each size."""
    metric = (found.scores.metric or "score").replace("_", " ")
    head = ["model", "runtime", "numbers", "weights", "zeros", "in file", "file MB", "zstd MB", "memory MB", metric]
    rows = [_model_cells(model, found) for model in found.measured.models]
    parts = [("Models", head, rows)]
    timed = ["model", "runtime", "numbers", metric, "median ms", "p95 ms", "rows/s", "x stock dense", "x same runtime"]
    for size in found.measured.sizes():
        beside = found.measured.at(size)
        cells = [_time_cells(model, beside[model.place.key], found) for model in found.measured.models]
        parts.append((f"Times at {size_in_words(*size)}", timed, cells))
    return parts


def _model_cells(model: Model, found: Benchmark) -> list[str]:
    sizes = (model.file_bytes, model.zstd_bytes, found.memory[model.place.key]["peak"])
    return [
        *_name_cells(model),
        f"{model.weights:,}",
        f"{model.sparsity:.1%}",
        f"{model.file_sparsity:.1%}",
        *(f"{size / MEGABYTE:.1f}" for size in sizes),
        _score(model, found),
    ]


def _time_cells(model: Model, times: Any, found: Benchmark) -> list[str]:
    speedup, ms = found.measured.speedup(times), percentiles(times.seconds)
    ratios = ["-", "-"] if speedup is None else [_spread(one) for one in (speedup.stock, speedup.same_runtime)]
    speed = [f"{ms['p50']:.2f}", f"{ms['p95']:.2f}", f"{1e3 * times.batch / ms['p50']:.1f}"]
    return [*_name_cells(model), _score(model, found), *speed, *ratios]


def _name_cells(model: Model) -> list[str]:
    return [model.place.name, runtime_name(model.place.runtime), model.precision]


def _score(model: Model, found: Benchmark) -> str:
    value = found.scores.leading(model.place.key)
    return NOT_SCORED if value is None else f"{value:.4f}"


def _spread(found: Mapping[str, float]) -> str:
    """`2.65 (2.51-2.70)`"""
    return f"{found['median']:.2f} ({found['p10']:.2f}-{found['p90']:.2f})"


def _below(found: Benchmark) -> list[str]:
    """Notes, then what the figures depend on."""
    measured, setting = found.measured, found.setting
    said = as_json(found)
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    lines = [*found.notes()]
    if found.scores.metric:
        lines.append(f"scored on {found.scores.of}, each model on its own runtime")
    lines += [
        f"times: of one forward without tokenizing; {setting.rounds} rounds after {setting.warm_up} that do not count, "
        "in which the models take turns, each with one call that does not count and one that does; a speed-up is the "
        f"median of the rounds' ratios (10 to 90 %), noise of one model between rounds {_noise(measured)}",
        f"rows: random words of seed {setting.seed}, no padding, equal for models of one vocabulary",
        "weights: of the Linears that are pruned; zeros: of the model, and in its file, where int8 rounds more of them "
        "to 0; memory: most that opening the model and a forward at batch "
        f"{max(setting.batches)}, length {max(setting.lengths)} took above the packages; file: what the runtime reads, "
        f"and packed by zstd -{ZSTD_LEVEL}",
        f"{said['hardware']['device']}, {said['hardware']['cores']} cores, load {found.load:.1f} before; {versions}; "
        f"commit {said['commit']}",
        f"command: {said['command']}",
    ]
    return lines


def _noise(measured: Measured) -> str:
    values = [noise(one.seconds) for one in measured.times]
    return f"{min(values):.2f} to {max(values):.2f}"


def load_before() -> float:
    """Processes that were running or waiting to, on average over the last minute."""
    return os.getloadavg()[0]
