"""An exported file held against the torch model: its logits on real rows, and its weights by what they hold.

The exporter transposes weights and gives them names of its own, so that a weight is looked for by its content: the
bytes of [out, in] or [in, out].
"""

from __future__ import annotations

import hashlib
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
    """Differences between logits that pass, as fractions of the largest magnitude of a logit."""

    largest: float
    mean: float


TOLERANCES = {"fp32": Tolerance(1e-4, 1e-5), "int8": Tolerance(0.25, 0.02)}
"""By precision. In int8 last bits turn roundings over, each by a whole step, which later layers spread: 6 layers differ
by 6 % in one logit of 800, where in fp32 they differ by 2e-6."""

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
        return self.largest <= tolerance.largest * self.magnitude and self.mean <= tolerance.mean * self.magnitude

    def in_words(self) -> str:
        """`by up to 7e-06, by 2e-06 on average (the largest logit is 2.9)`"""
        return f"by up to {self.largest:.2g}, by {self.mean:.2g} on average (the largest logit is {self.magnitude:.2g})"


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


def digests(weight: np.ndarray) -> list[str]:
    """sha256 over type and content of a weight [out, in], as it is and transposed."""
    return [_digest(weight), _digest(weight.T)]


def _digest(array: np.ndarray) -> str:
    found = hashlib.sha256(array.dtype.str.encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
