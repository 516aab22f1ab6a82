"""What times say: speed-ups and what zeros have brought, or why neither can be said.

A speed-up is the median over rounds of dense seconds / own seconds. There are two, and neither stands alone: over the
stock dense model of transformers on torch, which is what a user has before, and over the dense model on the same
runtime, without which a faster runtime would pass for a faster model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.benchmark.measure import Times, size_in_words
from ofa.benchmark.models import DENSE, SIMULATED, Model, runtime_name
from ofa.inference import TORCH
from ofa.timing import median_interval, ratios

NOISY = 1.25
"""Noise above which speed-ups are not to be trusted."""

GAIN = 1.05
"""Speed-up from which zeros are said to bring speed (PERF-34)."""

Gains = dict[tuple[int, int, int], tuple[float, float, float]]
"""Size -> how many times as fast, the median, and between which values the median lies."""

Spread = dict[str, float]
"""`median`, `p10` and `p90`."""


@dataclass(frozen=True)
class Speedup:
    """Of one model at one size."""

    stock: Spread
    """Over the stock dense model on torch."""
    same_runtime: Spread
    """Over the dense model on its own runtime."""


@dataclass(frozen=True)
class Measured:
    """Models, which of them is the dense one, and their times."""

    models: Sequence[Model]
    dense: str | None
    times: Sequence[Times]

    def at(self, size: tuple[int, int, int]) -> dict[tuple[str, str], Times]:
        """Times at one size, by model."""
        return {one.place.key: one for one in self.times if one.size == size}

    def sizes(self) -> list[tuple[int, int, int]]:
        """Threads, batch and length, in the order in which they were measured."""
        return list(dict.fromkeys(one.size for one in self.times))

    def speedup(self, times: Times) -> Speedup | None:
        """None without both dense models."""
        beside = self.at(times.size)
        stock, same = (beside.get((str(self.dense), runtime)) for runtime in (TORCH, times.place.runtime))
        if stock is None or same is None:
            return None
        return Speedup(*(ratios(one.seconds, times.seconds) for one in (stock, same)))


def missing(models: Sequence[Model], dense: str | None) -> list[str]:
    """Why which models have no speed-up, and what to do about it."""
    if dense is None:
        return ["no speed-up is given: say with --dense NAME which model is the dense one"]
    folders = {model.place.runtime: model.place.folder for model in models if model.place.name == dense}
    if TORCH not in folders:
        return [
            f"no speed-up is given: the dense model was not measured on torch, as stock transformers runs it; add "
            f"{dense}=FOLDER with the one that {next(iter(folders.values()))} was exported from"
        ]
    lacking = dict.fromkeys(model.place.runtime for model in models if model.place.runtime not in folders)
    return [
        f"no speed-up is given on {runtime_name(runtime)}: the dense model was not measured there; python "
        f"launch/export.py {folders[TORCH]} --format {runtime} --precision fp32 --output FOLDER, and add {dense}=FOLDER"
        for runtime in lacking
    ]


def noise(seconds: Sequence[float]) -> float:
    """How many times longer one of two neighbouring rounds of the same work takes, in 9 of 10 cases at most."""
    pairs = sorted(max(a / b, b / a) for a, b in zip(seconds, seconds[1:], strict=False))
    return pairs[round(0.9 * (len(pairs) - 1))]


def remarks(measured: Measured) -> list[str]:
    """What the figures alone do not say: of zeros that bring nothing, and of int8 that torch simulates."""
    found = []
    for model in measured.models:
        if model.sparsity >= DENSE:
            found += _of_zeros(model, measured)
    noisiest = max(noise(one.seconds) for one in measured.times)
    if noisiest > NOISY:
        found.append(
            f"the machine was not quiet: neighbouring rounds of one model differ by up to {noisiest:.2f} times; do not "
            "trust speed-ups below that"
        )
    simulated = [model.place.name for model in measured.models if model.precision == SIMULATED]
    if simulated:
        found.append(
            f"{', '.join(simulated)} on torch: rounds as int8 would and multiplies in fp32; its times say nothing of "
            "int8"
        )
    return found


def _of_zeros(model: Model, measured: Measured) -> list[str]:
    """PERF-34: whether a model with zeros is faster than one that differs in nothing else: not where the interval of
    the median ratio ends below GAIN, and nobody knows where it reaches from no gain to that."""
    place, share = model.place, f"{model.sparsity:.1%} zeros"
    twin = _twin(model, measured)
    if twin is None:
        return [
            f"{place.in_words()}: what its {share} bring is not known: no dense model of its sizes in "
            f"{model.precision} was measured there"
        ]
    gains: Gains = {}
    for size in measured.sizes():
        beside = measured.at(size)
        both = beside[twin.place.key].seconds, beside[place.key].seconds
        interval = median_interval(*both)
        if interval is None:
            return [f"{place.in_words()}: whether {share} bring speed cannot be told of {len(both[0])} rounds"]
        gains[size] = (ratios(*both)["median"], *interval)
    clear = {size: one for size, one in gains.items() if one[2] < GAIN}
    unclear = {size: one for size, one in gains.items() if one[1] <= 1.0 and one[2] >= GAIN}
    than = f"{twin.place.name} of the same sizes in {model.precision}"
    found = []
    if clear:
        found.append(
            f"{place.in_words()}: {share} bring no speed{_where(clear, measured)}: {_in_words(clear)} times as fast as "
            f"{than}; the runtime computes zeros as any other weight"
        )
    if unclear:
        found.append(
            f"{place.in_words()}: whether {share} bring speed{_where(unclear, measured)} cannot be told: "
            f"{_in_words(unclear)} times as fast as {than}"
        )
    return found


def _twin(model: Model, measured: Measured) -> Model | None:
    """A dense model like it; the one that is named as dense before others."""
    alike = [
        one
        for one in measured.models
        if (one.place.runtime, one.precision, one.weights) == (model.place.runtime, model.precision, model.weights)
        and one.sparsity < DENSE
    ]
    return min(alike, key=lambda one: one.place.name != measured.dense, default=None)


def _where(gains: Gains, measured: Measured) -> str:
    """At which sizes; nothing where at all of them."""
    if len(gains) == len(measured.sizes()):
        return ""
    return " at " + "; ".join(size_in_words(*size) for size in gains)


def _in_words(gains: Gains) -> str:
    """`0.99 to 1.01 (with 95 % confidence 0.97 to 1.04)`"""
    medians, lows, highs = zip(*gains.values(), strict=True)
    low, high = f"{min(medians):.2f}", f"{max(medians):.2f}"
    median = low if low == high else f"{low} to {high}"
    return f"{median} (with 95 % confidence {min(lows):.2f} to {max(highs):.2f})"
