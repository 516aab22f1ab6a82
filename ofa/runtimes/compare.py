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
from scipy.stats import binom
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

    mean: float
    """Difference of a logit, as a fraction of the largest magnitude of one."""
    largest: float | None = None
    """Of any logit."""
    nearly_all: float | None = None
    """Of `NEARLY_ALL` of the logits."""
    equal_decisions: float = 0.0
    """Share, of more rows than were compared: see `unequal`."""

    def unequal(self, decisions: int) -> int:
        """How many of so many decisions may differ: more have a chance of 1 % where the share is met."""
        return int(binom.ppf(CONFIDENCE, decisions, 1 - self.equal_decisions)) if decisions else 0

    def decisions_held(self, apart: Difference) -> bool | None:
        """Whether enough decisions were seen and so large a share was equal; less may pass. None where nothing is asked
        of them."""
        share = apart.equal_decisions
        if not self.equal_decisions or share is None:
            return None
        return apart.decisions >= FEWEST_DECISIONS and share >= self.equal_decisions

    def doubt(self, apart: Difference) -> str | None:
        """What to say where the decisions were not seen to be held."""
        if self.decisions_held(apart) is not False:
            return None
        asked = f"{self.equal_decisions:.1%} equal decisions"
        if apart.decisions < FEWEST_DECISIONS:
            return f"{asked} are not shown: {apart.decisions} decisions are too few, at least {FEWEST_DECISIONS} tell"
        return (
            f"{asked} are not shown: {apart.equal_decisions:.2%} of {apart.decisions} are equal, which passes because "
            "chance may do as much"
        )

    def in_words(self, decisions: int) -> str:
        """`up to 0.25 of the largest logit for 99 % of them, 0.004 on average, and 4 of 200 decisions`"""
        size = f"up to {self.largest:.2g} of the largest logit" if self.largest is not None else ""
        if self.nearly_all is not None:
            size = f"up to {self.nearly_all:.2g} of the largest logit for {NEARLY_ALL:.0%} of them"
        size += f", {self.mean:.2g} on average"
        return f"{size}, and {self.unequal(decisions)} of {decisions} decisions" if self.equal_decisions else size


IN_FLOATS = Tolerance(mean=1e-5, largest=1e-4)

MOST_MEAN_IN_8_BITS = 0.02
"""Of the largest logit, whatever a model's own noise."""

LEAST_MEAN_IN_8_BITS = 1e-3
"""Likewise: in few rows of a small model it is chance whether any rounding turns over."""

EQUAL_DECISIONS = 0.995
CONFIDENCE = 0.99

FEWEST_DECISIONS = 200
"""Of which one may differ: fewer cannot show `EQUAL_DECISIONS`, whatever they are."""

NEARLY_ALL = 0.99
NEARLY_ALL_IN_8_BITS = 0.25
"""Last bits turn roundings over, each by a whole step, which later layers spread: of 6 trained layers on 872 sentences,
sums in fp64 in place of fp32 move 99 % of the logits by less than 0.05 of the largest, and one by 0.17 (ONNX Runtime as
much, OpenVINO 0.10 and 0.44). The largest of many says nothing of a file, so it is told and not held. How much of this
a model does is its own: see `tolerance_in_8_bits`."""

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
    nearly_all: float
    """What `NEARLY_ALL` of the logits do not exceed."""
    mean: float
    magnitude: float
    """Of the torch model's largest logit."""
    decisions: int
    """None of them for numbers."""
    unequal: int

    @property
    def equal_decisions(self) -> float | None:
        """Share; None for numbers."""
        return 1 - self.unequal / self.decisions if self.decisions else None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether it is small enough; a NaN is not."""
        near = self.mean <= tolerance.mean * self.magnitude
        for found, bound in ((self.largest, tolerance.largest), (self.nearly_all, tolerance.nearly_all)):
            near = near and (bound is None or found <= bound * self.magnitude)
        return near and self.unequal <= tolerance.unequal(self.decisions)

    def in_words(self) -> str:
        """`by up to 0.23, 99% of them by 0.05, by 0.006 on average (the largest logit is 2.9), 2 of 200 decisions`"""
        agree = f", {self.unequal} of {self.decisions} decisions" if self.decisions else ""
        nearly_all = f"{NEARLY_ALL:.0%} of them by {self.nearly_all:.2g}"
        logits = f"by up to {self.largest:.2g}, {nearly_all}, by {self.mean:.2g} on average"
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
    apart, magnitude = np.abs(found.logits - expected.logits), np.abs(expected.logits).max()
    nearly_all, largest = np.quantile(apart, (NEARLY_ALL, 1), method="higher")
    unequal = int((found.decisions != expected.decisions).sum())
    sizes = map(float, (largest, nearly_all, apart.mean(), magnitude))
    return Difference(*sizes, decisions=expected.decisions.size, unequal=unequal)


def tolerance_in_8_bits(noise: Difference) -> Tolerance:
    """From what the model itself, in 8 bits, makes of last bits that turn its roundings over: a runtime, whose sums go
    in another order, may differ from training by as much on average."""
    mean = min(MOST_MEAN_IN_8_BITS, max(LEAST_MEAN_IN_8_BITS, noise.mean / noise.magnitude))
    return Tolerance(mean, nearly_all=NEARLY_ALL_IN_8_BITS, equal_decisions=EQUAL_DECISIONS)


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
