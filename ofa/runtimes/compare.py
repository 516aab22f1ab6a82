"""An exported file held against the torch model: its logits on real rows, and its constants by what they hold.

The exporter transposes weights and gives them names of its own, so that a weight is looked for by its content: the
bytes of [out, in] or [in, out]. Equal constants cannot be told apart by it, so they are counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ofa.data.task_batches import TaskBatch
from ofa.data.tasks import Kind
from ofa.export.count import TensorCount, count
from ofa.export.hf import ExportError
from ofa.models.task_training import task_logits
from ofa.runtimes.formats import Session
from ofa.runtimes.sample import Sample


@dataclass(frozen=True)
class Tolerance:
    """What passes."""

    largest: float
    """Difference of a logit, as a fraction of the largest magnitude of one."""
    mean: float
    equal_decisions: float = 0.0
    """Share."""

    def in_words(self) -> str:
        """`0.25 and 0.004 of the largest logit, and 99.5 % of the decisions equal`"""
        equal = f", and {self.equal_decisions:.1%} of the decisions equal" if self.equal_decisions else ""
        return f"{self.largest:.2g} and {self.mean:.2g} of the largest logit{equal}"


IN_FLOATS = Tolerance(1e-4, 1e-5)

NOISE_SHARE = 0.25
"""Of the mean difference that 8 bits make at all, how much an exported file may differ from training on average."""

EQUAL_DECISIONS = 0.995

LARGEST_IN_8_BITS = 0.25
"""Last bits turn roundings over, each by a whole step, which later layers spread: of a model of 6 layers, sums in fp64
in place of fp32 move one logit by 0.053, and the mean one by 0.0015."""

Logits = Callable[[TaskBatch], Tensor]
"""A micro-batch -> its logits, as `ofa.models.task_training.task_logits` gives them."""


@dataclass(frozen=True)
class Answers:
    """What a model says on a sample."""

    logits: np.ndarray
    """fp32 [n], those of padding left out."""
    decisions: np.ndarray
    """int64 [m], the class of each row or token, first and last token of each answer; empty for numbers."""


@dataclass(frozen=True)
class Difference:
    """Between two models on one sample."""

    largest: float
    """Between two logits."""
    mean: float
    magnitude: float
    """Of the torch model's largest logit."""
    equal_decisions: float | None
    """Share; None for numbers."""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether it is small enough; a NaN is not."""
        near = self.largest <= tolerance.largest * self.magnitude and self.mean <= tolerance.mean * self.magnitude
        return near and (self.equal_decisions is None or self.equal_decisions >= tolerance.equal_decisions)

    def in_words(self) -> str:
        """`by up to 7e-06, by 2e-06 on average (the largest logit is 2.9); 99.5% of the decisions are equal`"""
        agree = "" if self.equal_decisions is None else f"; {self.equal_decisions:.2%} of the decisions are equal"
        logits = f"by up to {self.largest:.2g}, by {self.mean:.2g} on average"
        return f"{logits} (the largest logit is {self.magnitude:.2g}){agree}"


def torch_logits(model: PreTrainedModel, kind: Kind) -> Logits:
    """Of a model on the CPU."""
    return lambda batch: task_logits(model, kind, batch)


def session_logits(session: Session, kind: Kind, inputs: Iterable[str]) -> Logits:
    """Of a runtime."""
    inputs = tuple(inputs)

    def logits(batch: TaskBatch) -> Tensor:
        found = session({name: getattr(batch, name).numpy() for name in inputs})
        if kind == "questions":
            return torch.from_numpy(np.stack([found["start_logits"], found["end_logits"]], axis=-1))
        values = torch.from_numpy(found["logits"])
        return values.squeeze(-1) if kind == "regression" else values

    return logits


@torch.no_grad()
def answers(logits_of: Logits, sample: Sample) -> Answers:
    """Ask a model for every row."""
    logits, decisions = [], []
    for batch in sample.batches():
        found = logits_of(batch).float()
        by_token = sample.kind in ("tokens", "questions")
        logits.append((found[batch.real] if by_token else found).flatten())
        decisions.append(_decisions(found, batch, sample.kind))
    return Answers(torch.cat(logits).numpy(), torch.cat(decisions).numpy())


def _decisions(logits: Tensor, batch: TaskBatch, kind: Kind) -> Tensor:
    if kind == "regression":
        return torch.empty(0, dtype=torch.int64)
    if kind == "questions":
        return logits.masked_fill(~batch.real[..., None], -torch.inf).argmax(dim=1).flatten()
    chosen = logits.argmax(dim=-1)
    return chosen[batch.real] if kind == "tokens" else chosen


def difference(found: Answers, expected: Answers) -> Difference:
    """Between what an exported model says and the torch model."""
    apart, equal = np.abs(found.logits - expected.logits), found.decisions == expected.decisions
    share = float(equal.mean()) if equal.size else None
    return Difference(float(apart.max()), float(apart.mean()), float(np.abs(expected.logits).max()), share)


def tolerance_in_8_bits(expected: Answers, in_floats: Answers) -> Tolerance:
    """From a model's own noise: what 8 bits change of its answers.

    Args:
        expected: what the model answers in 8 bits.
        in_floats: what the same weights answer in fp32.
    """
    noise = difference(in_floats, expected)
    mean = max(IN_FLOATS.mean, NOISE_SHARE * noise.mean / noise.magnitude)
    return Tolerance(LARGEST_IN_8_BITS, mean, EQUAL_DECISIONS)


def recount(expected: Mapping[str, np.ndarray], constants: Iterable[np.ndarray]) -> dict[str, TensorCount]:
    """Each weight as it is counted in an exported file.

    Args:
        expected: weights [out, in] as the file has to hold them, by name.
        constants: all arrays of the file.

    Raises:
        ExportError: one is not there, bit for bit.
    """
    found = find_weights({name: digests(weight) for name, weight in expected.items()}, constants)
    for name, weight in expected.items():
        if name not in found:
            raise ExportError(f"{name} is not in the exported file as the model has it ({weight.dtype}, bit for bit)")
    return found


def find_weights(
    wanted: Mapping[str, Sequence[str]], constants: Iterable[np.ndarray]
) -> dict[str, TensorCount]:
    """Counts of those weights that are among an exported file's arrays, by name.

    Args:
        wanted: for each weight the `digests` of the arrays that it may stand as.
        constants: all arrays of the file.
    """
    names: dict[str, list[str]] = {}
    for name, of_one in wanted.items():
        for digest in of_one:
            names.setdefault(digest, []).append(name)
    found: dict[str, TensorCount] = {}
    for array in constants:
        for name in names.get(_digest(array), ()):
            found[name] = count(torch.from_numpy(array.copy()))  # the runtime's own memory may be read-only
    return found


def occurrences(wanted: Mapping[str, Sequence[str]], constants: Iterable[np.ndarray]) -> dict[str, int]:
    """How many arrays of a file have the content of each wanted one.

    Args:
        wanted: by name, the `digests` of the arrays that it may stand as.
        constants: all arrays of the file.
    """
    found = Counter(map(_digest, constants))
    return {name: sum(found[digest] for digest in of_one) for name, of_one in wanted.items()}


def digests(weight: np.ndarray) -> list[str]:
    """sha256 over type and content of a weight [out, in], as it is and transposed."""
    return list(dict.fromkeys([_digest(weight), _digest(weight.T)]))


def _digest(array: np.ndarray) -> str:
    found = hashlib.sha256(array.dtype.str.encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
