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


@dataclass(frozen=True)
class Reference:
    """What a runtime is held against."""

    answers: Answers
    tolerance: Tolerance
    in_floats: Difference | None = None
    """What the same weights answer in fp32, beside those answers in 8 bits; None: they are in fp32."""


def reference(source: Source, sample: Sample) -> Reference:
    """Of a model before it is made ready for the exporter; in 8 bits it is asked in fp32 too."""
    logits = torch_logits(source.model, source.kind)
    expected = answers(logits, sample)
    if source.quantised is None:
        return Reference(expected, IN_FLOATS)
    with source.in_floats():
        in_floats = difference(answers(logits, sample), expected)
    return Reference(expected, tolerance_in_8_bits(in_floats), in_floats)
