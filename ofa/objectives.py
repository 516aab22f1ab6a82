"""Losses of pre-training: masked-LM cross entropy and logit distillation in chunks, the same for sentence pairs, and
the cosine between hidden states.

In: hidden states at the positions that count, decoder weights, labels, and what the teacher says there. Out: sums over
these positions; the caller divides by the count of the global batch, so no mean here depends on how rows are grouped.

The vocabulary is what costs memory: full logits of student and teacher, their softmaxes and gradients are 4 to 8 arrays
of positions x vocabulary. `chunked_loss` makes logits for `chunk_rows` positions at a time and turns them into
gradients at once, while they exist. Roads not taken: checkpointing each chunk (recomputes the head), and
`torch.nn.functional.linear_cross_entropy` (no distillation).

Shapes: N positions, P <= N of them with a label, h hidden size, V vocabulary, M sentence pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class TeacherRows:
    """What the teacher's head makes of the student's N positions: logits are `hidden @ weight.T + bias`."""

    hidden: Tensor
    """[N, h_teacher], after the head's transform."""
    weight: Tensor
    """[V, h_teacher]"""
    bias: Tensor
    """[V]"""


class ChunkedLoss(NamedTuple):
    """Sums over the rows of one call; only `loss` carries a gradient."""

    loss: Tensor
    """ce_scale * cross_entropy + kd_scale * distillation"""
    cross_entropy: Tensor
    distillation: Tensor
    correct: Tensor
    """Number of labelled rows whose label has the largest logit."""


@dataclass(frozen=True)
class _Settings:
    ce_scale: float
    kd_scale: float
    temperature: float
    chunk_rows: int
    with_gradients: bool


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    teacher: TeacherRows | None = None,
    *,
    ce_scale: float = 1.0,
    kd_scale: float = 0.0,
    temperature: float = 2.0,
    chunk_rows: int = 1024,
) -> ChunkedLoss:
    """Cross entropy and distillation of a decoder, never holding more than `chunk_rows` x V logits of each model.

        cross_entropy = sum over the first P rows of  -log softmax(z)[label]
        distillation  = T^2 * sum over all N rows of  KL(softmax(t / T) || softmax(z / T))
        z = hidden @ weight.T + bias,  t = the teacher's

    The gradient with respect to z is
    ce_scale * (softmax(z) - onehot) + kd_scale * T * (softmax(z / T) - softmax(t / T)).

    Args:
        hidden: [N, h] after the head's transform; rows with a label come first.
        weight: [V, h], the tied embedding.
        bias: [V]
        labels: [P] true tokens of the first P rows.
        teacher: without it no distillation is computed.

    Logits are made in the weights' dtype, everything after them in fp32.
    """
    assert labels.numel() <= hidden.shape[0], "more labels than rows"
    settings = _Settings(ce_scale, kd_scale, temperature, chunk_rows, torch.is_grad_enabled())
    result = _ChunkedLoss.apply(hidden.to(weight.dtype), weight, bias, labels, teacher, settings)
    return ChunkedLoss(*result)


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are computed in the forward, where the logits are; the backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        teacher: TeacherRows | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        work = _Buffers(hidden, weight, teacher is not None, settings)
        sums = torch.zeros(3, dtype=work.dtype, device=hidden.device)  # cross entropy, distillation, correct
        gradients = _Gradients(hidden, weight, bias, work.dtype) if settings.with_gradients else None
        for start in range(0, hidden.shape[0], settings.chunk_rows):
            rows = slice(start, min(start + settings.chunk_rows, hidden.shape[0]))
            logits_gradient = _chunk(hidden[rows], weight, bias, labels[rows], teacher, rows, settings, work, sums)
            if gradients is not None:
                gradients.add(rows, work.in_weight_dtype(logits_gradient), logits_gradient)
        ctx.gradients = gradients.finished() if gradients is not None else None
        loss = settings.ce_scale * sums[0] + settings.kd_scale * sums[1]
        outputs = (loss, sums[0].clone(), sums[1].clone(), sums[2].clone())
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients of a chunked loss serve one backward"
        # In place and then forgotten: a second array of the vocabulary's size would be the step's largest.
        scaled = tuple(gradient.mul_(grad_outputs[0].to(gradient.dtype)) for gradient in ctx.gradients)
        ctx.gradients = None
        return (*scaled, None, None, None)


class _Buffers:
    """Two arrays of chunk_rows x V, three with a teacher; every chunk reuses them."""

    def __init__(self, hidden: Tensor, weight: Tensor, has_teacher: bool, settings: _Settings):
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self._weight_dtype = weight.dtype
        size = (min(settings.chunk_rows, hidden.shape[0]), weight.shape[0])
        self.student = torch.empty(size, dtype=self.dtype, device=hidden.device)
        self.scratch = torch.empty_like(self.student)
        self.teacher = torch.empty_like(self.student) if has_teacher else None

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor, into: Tensor) -> Tensor:
        """Logits of some rows, in `into`; the scratch array serves as the low-precision product."""
        rows = into[: hidden.shape[0]]
        product = rows if weight.dtype == self.dtype else _as_dtype(self.scratch[: hidden.shape[0]], weight.dtype)
        torch.addmm(bias, hidden, weight.t(), out=product)
        return rows if product is rows else rows.copy_(product)

    def in_weight_dtype(self, logits_gradient: Tensor) -> Tensor:
        """The gradient as the matrix products want it; overwrites the array that is free by then."""
        if self._weight_dtype == self.dtype:
            return logits_gradient
        free = self.student if self.teacher is None else self.scratch
        return _as_dtype(free[: logits_gradient.shape[0]], self._weight_dtype).copy_(logits_gradient)


class _Gradients:
    """Gradients of hidden states, weight and bias, filled chunk by chunk; those of the weight add up in fp32."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype):
        self._hidden, self._weight, self._bias_dtype = hidden, weight, bias.dtype
        self.hidden = torch.empty_like(hidden)
        self.weight = torch.zeros_like(weight, dtype=dtype)
        self.bias = torch.zeros_like(bias, dtype=dtype)

    def add(self, rows: slice, low: Tensor, full: Tensor) -> None:
        torch.mm(low, self._weight, out=self.hidden[rows])
        if self.weight.dtype == low.dtype:
            torch.addmm(self.weight, low.t(), self._hidden[rows], out=self.weight)  # FLOP counters do not see addmm_
        else:
            self.weight.add_(low.t() @ self._hidden[rows])
        self.bias.add_(full.sum(0))

    def finished(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of hidden states, weight and bias, each in its tensor's dtype."""
        return self.hidden, self.weight.to(self._weight.dtype), self.bias.to(self._bias_dtype)


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    teacher: TeacherRows | None,
    rows: slice,
    settings: _Settings,
    work: _Buffers,
    sums: Tensor,
) -> Tensor:
    """Add one chunk's losses to `sums`; returns the gradient of its logits [rows, V] if it is wanted."""
    student_logits = work.logits(hidden, weight, bias, work.student)
    gradient = None
    if teacher is not None:
        assert work.teacher is not None
        teacher_logits = work.logits(teacher.hidden[rows], teacher.weight, teacher.bias, work.teacher)
        scratch = work.scratch[: hidden.shape[0]]
        sums[1] += _distil(student_logits, teacher_logits, scratch, settings.temperature)
        gradient = teacher_logits.mul_(settings.kd_scale * settings.temperature)
    labelled = labels.numel()
    scratch = work.scratch[:labelled]
    cross_entropy, correct, normaliser = _label(student_logits[:labelled], labels, scratch)
    sums[0] += cross_entropy
    sums[2] += correct
    if not settings.with_gradients:
        return student_logits
    scratch.mul_(settings.ce_scale / normaliser)
    scratch.scatter_add_(1, labels[:, None], scratch.new_full((labelled, 1), -settings.ce_scale))
    if gradient is None:
        assert labelled == hidden.shape[0], "rows without a label need a teacher"
        return scratch
    gradient[:labelled].add_(scratch)
    return gradient


def _distil(student_logits: Tensor, teacher_logits: Tensor, scratch: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student), summed; leaves softmax(student / T) - softmax(teacher / T) in `teacher_logits`."""
    teacher_peak = teacher_logits.amax(1, keepdim=True)
    torch.sub(teacher_logits, teacher_peak, out=scratch).div_(temperature).exp_()
    teacher_sum = scratch.sum(1, keepdim=True)
    scratch.div_(teacher_sum)
    # KL = sum_v p_t (t - z) / T - lse(t / T) + lse(z / T), a row at a time
    expected = teacher_logits.sub_(student_logits).mul_(scratch).sum(1, keepdim=True)
    student_peak = student_logits.amax(1, keepdim=True)
    torch.sub(student_logits, student_peak, out=teacher_logits).div_(temperature).exp_()
    student_sum = teacher_logits.sum(1, keepdim=True)
    teacher_logits.div_(student_sum).sub_(scratch)
    divergence = (expected - teacher_peak + student_peak) / temperature + student_sum.log() - teacher_sum.log()
    return temperature**2 * divergence.sum()


def _label(logits: Tensor, labels: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy and right predictions, summed; leaves exp(logits - peak) in `scratch`, its row sums come third."""
    peak, best = logits.max(1, keepdim=True)
    torch.sub(logits, peak, out=scratch).exp_()
    normaliser = scratch.sum(1, keepdim=True)
    cross_entropy = normaliser.log() + peak - logits.gather(1, labels[:, None])
    return cross_entropy.sum(), (best == labels[:, None]).sum(), normaliser


def _as_dtype(array: Tensor, dtype: torch.dtype) -> Tensor:
    """The front of a contiguous array's memory as an array of the same shape in a smaller dtype."""
    return array.view(-1).view(dtype)[: array.numel()].view(array.shape)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[label] over rows: logits [M, C], labels [M]; rows labelled -100 count nothing."""
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def distillation_sum(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over rows: both [M, C]."""
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="sum", log_target=True)


def cosine_distance_sum(student_hidden: Tensor, teacher_hidden: Tensor, real: Tensor) -> Tensor:
    """Sum of 1 - cosine over real tokens: hidden [B, S, h], real [B, S] boolean."""
    cosine = functional.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)
    # torch.where, not a product: what stands at padding must not reach the sum, were it infinite
    return torch.where(real, 1.0 - cosine, 0.0).sum()
