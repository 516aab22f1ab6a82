"""What a torch model answers on a sample, and how far a runtime's answers may be from that."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.runtimes.compare import (
    IN_FLOATS,
    Answers,
    Difference,
    Tolerance,
    answers,
    difference,
    tolerance_in_8_bits,
    torch_logits,
)
from ofa.runtimes.sample import Sample
from ofa.runtimes.source import Source

JITTER = 1e-3
"""Rounding steps. Sums in another order move activations by some 2e-5 of one; every layer multiplies that until all
roundings that can turn over have done so, and from 1e-4 on it hardly matters where it began."""


@dataclass(frozen=True)
class Reference:
    """What a runtime is held against."""

    answers: Answers
    tolerance: Tolerance
    in_floats: Difference | None = None
    """What the same weights answer in fp32, beside those answers in 8 bits; None: they are in fp32."""
    rounding_noise: Difference | None = None
    """What the model answers in 8 bits when last bits turn roundings over, beside those answers."""


def reference(source: Source, sample: Sample) -> Reference:
    """Of a model before it is made ready for the exporter; in 8 bits it is asked in fp32 too, and
    with its roundings turned over."""
    logits = torch_logits(source.model, source.kind)
    expected = answers(logits, sample)
    if source.quantised is None:
        return Reference(expected, IN_FLOATS)
    with source.in_floats():
        in_floats = difference(answers(logits, sample), expected)
    with source.with_jitter(JITTER):
        noise = difference(answers(logits, sample), expected)
    return Reference(expected, tolerance_in_8_bits(noise), in_floats, noise)
