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

JITTER = 2e-5
"""Rounding steps: by so much sums in another order move an activation. What turns over moves the next layer by a whole
step, so that of 6 trained layers the logits move by 0.1 to 2 % of the largest (runtimes: 0.1 to 0.9 %)."""


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
