"""The squared distance between layers of student and teacher: of all pairs to choose from, of the chosen ones to learn.

In: hidden states of L layers of the student and K of the teacher, tokens that count, and W, which takes the student's
states to the teacher's space. Out: [K, L] distances without gradients; and one sum over K pairs with them.

Nothing of the size of a pair is kept for the backward: the differences of a few tokens at a time are made in both
directions. The published code keeps the differences of all 48 pairs of which it uses 4. Which pairs these are only the
device knows, and autograd would take the gradient of every layer that may be one: L arrays at the moment when the
step's memory is fullest. Here K are kept, and each layer adds its own when the backward arrives there.

Legend: B rows of S tokens, N = B S, d the student's hidden size, d_t the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST, SHARE = 256, 3
"""Tokens at a time: as many as make L layers' states a third of K layers' of all tokens, and 256 at least. These and as
many of what W makes of them are held, which leaves the peak below that of K plain MSEs (COFI-35); fewer at a time would
be more calls of small kernels, each of which costs a GPU its launch."""


@torch.no_grad()
def distances(student: Sequence[Tensor], teacher: Tensor, counted: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean over tokens and dimensions of (W h + b - t)^2, for each layer of the teacher with each of the student.

    By |a - t|^2 = |a|^2 + |t|^2 - 2 a.t, one matrix product for all pairs. Both are moved by the teacher's mean over
    its layers first, token by token: what all layers share, a few large dimensions of BERT's, would drown the rest.

    Args:
        student: L tensors [B, S, d].
        teacher: [K, B, S, d_t]
        counted: bool [B, S], False at padding, whatever stands there.
        weight: W [d_t, d].
        bias: b [d_t]

    Returns:
        [K, L] in fp32 (float64 for float64 states); 0 where no token counts.
    """
    width, wide = len(weight), torch.promote_types(weight.dtype, torch.float32)
    ours = torch.zeros(len(student), dtype=wide, device=teacher.device)
    theirs, products = ours.new_zeros(len(teacher)), ours.new_zeros(len(student), len(teacher))
    for states, targets, padding in _chunks(student, teacher, counted):
        targets = targets.to(wide)
        origin = targets.mean(0)
        states = functional.linear(states.to(weight.dtype), weight, bias).to(wide)
        states = states.sub_(origin).masked_fill_(padding, 0).flatten(1)
        targets = (targets - origin).masked_fill_(padding, 0).flatten(1)
        ours += torch.linalg.vector_norm(states, dim=1).square()
        theirs += torch.linalg.vector_norm(targets, dim=1).square()
        products += states @ targets.T
    sums = theirs[:, None] + ours - 2 * products.T
    return sums.clamp(min=0) / (counted.sum().clamp(min=1) * width)


def matched_distance(
    student: Sequence[Tensor], teacher: Tensor, counted: Tensor, weight: Tensor, bias: Tensor, alignment: Tensor
) -> Tensor:
    """Sum over pairs and tokens of the mean over dimensions of (W h + b - t)^2, with gradients for h, W and b.

    Args:
        student, teacher, counted, weight, bias: as of `distances`.
        alignment: int64 [K], the student's layer for each of the teacher's.

    Returns:
        A scalar in fp32 (float64 for float64 states). A backward that ends at some of the student's layers and keeps
        the graph leaves the others' shares for the next one that comes there.
    """
    shares = _Shares()
    total = _MatchedDistance.apply(weight, bias, teacher, counted, alignment, shares, *student)
    if total.requires_grad:
        for layer, states in enumerate(student):
            if states.requires_grad:
                states.register_hook(partial(shares.add, layer))
    return total


class _MatchedDistance(torch.autograd.Function):
    """Gradients of W and b at once; those of the states by way of `_Shares`."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        teacher: Tensor,
        counted: Tensor,
        alignment: Tensor,
        shares: _Shares,
        *student: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, bias, teacher, counted, alignment, *student)
        ctx.shares = shares
        total = torch.zeros((), dtype=torch.promote_types(weight.dtype, torch.float32), device=teacher.device)
        for chunk in _chunks(student, teacher, counted):
            _, differences = _pairs(weight, bias, alignment, *chunk)
            total += torch.linalg.vector_norm(differences).square()
        return total / len(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, teacher, counted, alignment, *student = ctx.saved_tensors
        needed = [layer for layer in range(len(student)) if ctx.needs_input_grad[6 + layer]]
        scale = 2 / len(weight) * grad_outputs[0]
        weight_gradient = torch.zeros_like(weight, dtype=scale.dtype)
        bias_gradient = torch.zeros_like(bias, dtype=scale.dtype)
        gradients = student[0].new_empty(len(teacher), counted.numel(), weight.shape[1])
        parts = gradients.split(_chunk_size(student, teacher), dim=1)
        for chunk, part in zip(_chunks(student, teacher, counted), parts, strict=True):
            states, differences = _pairs(weight, bias, alignment, *chunk)
            bias_gradient += differences.mul_(scale).sum((0, 1))
            low = differences.to(weight.dtype)
            weight_gradient += low.flatten(0, 1).T @ states.flatten(0, 1)
            part.copy_(low @ weight)
        ctx.shares.receive(alignment, gradients, needed)
        # A zero without memory: it makes sure that the backward arrives at every layer.
        nothing = (states.new_zeros(()).expand_as(states) if i in needed else None for i, states in enumerate(student))
        return weight_gradient.to(weight.dtype), bias_gradient.to(bias.dtype), *[None] * 4, *nothing


class _Shares:
    """Gradients of the matched states, from the distance's backward until it arrives at their layers."""

    def __init__(self) -> None:
        self._alignment: Tensor | None = None
        self._gradients: Tensor | None = None
        self._waiting: set[int] = set()

    def receive(self, alignment: Tensor, gradients: Tensor, layers: Sequence[int]) -> None:
        """`gradients` [K, N, d], for the layers [K] of `alignment`; `layers` are those that will ask."""
        if layers:
            self._alignment, self._gradients, self._waiting = alignment, gradients, set(layers)

    def add(self, layer: int, gradient: Tensor) -> Tensor | None:
        """A layer's gradient with its share; None, which leaves it as it is, in a backward without the distance."""
        if layer not in self._waiting:
            return None
        assert self._alignment is not None and self._gradients is not None
        mine = (self._alignment == layer).to(gradient.dtype)
        found = torch.addmv(gradient.flatten(), self._gradients.flatten(1).T, mine).view_as(gradient)
        self._waiting.remove(layer)
        if not self._waiting:
            self._alignment = self._gradients = None
        return found


def _pairs(
    weight: Tensor, bias: Tensor, alignment: Tensor, states: Tensor, targets: Tensor, padding: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a chunk the matched states [K, n, d], and W h + b - t [K, n, d_t] in fp32, both 0 where no token counts."""
    states = states.index_select(0, alignment).to(weight.dtype).masked_fill_(padding, 0)
    differences = functional.linear(states, weight, bias).to(torch.promote_types(weight.dtype, torch.float32))
    return states, differences.sub_(targets).masked_fill_(padding, 0)


def _chunks(student: Sequence[Tensor], teacher: Tensor, counted: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some of the N tokens at a time, which lie row after row: all layers' states [L, n, d], the targets [K, n, d_t],
    and bool [n, 1], True where no token counts."""
    size = _chunk_size(student, teacher)
    layers = zip(*(states.flatten(0, 1).split(size) for states in student), strict=True)
    targets, padding = teacher.flatten(1, 2).split(size, dim=1), (~counted).view(-1, 1).split(size)
    for states, of_teacher, of_padding in zip(layers, targets, padding, strict=True):
        yield torch.stack(states), of_teacher, of_padding


def _chunk_size(student: Sequence[Tensor], teacher: Tensor) -> int:
    """Tokens at a time."""
    pairs, tokens = len(teacher), teacher[0, ..., 0].numel()
    return max(LEAST, math.ceil(pairs * tokens / (SHARE * len(student))))
