"""What a torch model answers on a sample, and how far a runtime's answers may be from that."""

from __future__ import annotations

from ofa.runtimes.compare import IN_FLOATS, Answers, Tolerance, answers, tolerance_in_8_bits, torch_logits
from ofa.runtimes.sample import Sample
from ofa.runtimes.source import Source


def reference(source: Source, sample: Sample) -> tuple[Answers, Tolerance]:
    """Of a model before it is made ready for the exporter; in 8 bits it is asked in fp32 too."""
    logits = torch_logits(source.model, source.kind)
    expected = answers(logits, sample)
    if source.quantised is None:
        return expected, IN_FLOATS
    with source.in_floats():
        return expected, tolerance_in_8_bits(expected, answers(logits, sample))
