"""What a step computes and moves, counted instead of timed: FLOPs, bytes of masking, bytes of vocabulary-sized arrays.

In: a step and a batch. Out: counts, which a busy machine cannot change. Bytes are those of the operations' operands and
results in eager execution (a kernel that fuses two operations moves less); views move nothing, and what is changed in
place is read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_batches import StepBatch
from benchmarks.step_variants import Models, Step, Variant


class Traffic(TorchDispatchMode):
    """Counts the operations, and the bytes of their operands and results, that touch some tensors."""

    def __init__(self, touches: Callable[[Tensor], bool]):
        super().__init__()
        self._touches = touches
        self.bytes = 0
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:
            read = _tensors((args, {name: value for name, value in kwargs.items() if name != "out"}))
            written = _tensors(result)
            if any(map(self._touches, read + written)) and "empty" not in str(func):
                self.operations.append(str(func))
                self.bytes += sum(one.numel() * one.element_size() for one in read + written)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def touching(chosen: Iterable[Tensor]) -> Callable[[Tensor], bool]:
    """Whether a tensor is one of these, or a view that begins where one does."""
    places = {tensor.data_ptr() for tensor in chosen}
    return lambda tensor: tensor.data_ptr() in places


@dataclass(frozen=True)
class Counts:
    """Of one step of one micro-batch."""

    flops: float
    """For each real token."""
    masking_operations: int
    """Multiplications with a mask."""
    masking_bytes: float
    """Of these, for each prunable weight. Forward masks and gradient masks act in every micro-batch, masks on live
    weights once a step."""
    vocabulary_bytes: float
    """For each real token, of the operations on arrays of positions x vocabulary: logits, softmaxes, gradients."""


def count(variant: Variant, models: Models, batch: StepBatch) -> Counts:
    """Counts of a variant's step on a batch of its layout; compiled layers are counted as if they were not."""
    step = Step(replace(variant, compile=False), models)
    masks = Traffic(touching([*step.forward_masks.values(), *step.backward_masks.values()]))
    vocabulary = Traffic(_logits_of(step))
    with step.installed(), FlopCounterMode(display=False) as flops, masks, vocabulary:
        step(batch)
    tokens = batch.totals.tokens
    return Counts(
        flops=flops.get_total_flops() / tokens,
        masking_operations=len(masks.operations),
        masking_bytes=masks.bytes / sum(keep.numel() for keep in models.keep.values()),
        vocabulary_bytes=vocabulary.bytes / tokens,
    )


def _logits_of(step: Step) -> Callable[[Tensor], bool]:
    """Arrays whose last dimension is the vocabulary, but for the decoder's transposed weight."""
    vocab, hidden = step.student.model.config.vocab_size, step.student.model.config.hidden_size
    return lambda tensor: tensor.dim() > 1 and tensor.shape[-1] == vocab and tensor.shape[0] != hidden
