"""Exact floating-point operations of pre-training, as pure functions of sizes, and the measured rate to hold them
against.

Counted are matrix products (a multiply and an add are two operations), which is what hardware peaks are quoted for.
`6 * parameters` is wrong for these models: the embedding is a lookup, and the head runs on predicted positions only.

One token, forward, with L layers, hidden size h, feed-forward size f, vocabulary V, in a segment of s tokens:

    encoder   2 L (4 h^2 + 2 h f) + 4 s h L    (3 h f where the feed-forward network is gated; in compact models with
                                                the sums over layers of the widths that live for L h and L f)
    head      2 h e + 2 e V           for each position that passes through it, embeddings of size e (mostly h)

Backward costs twice the forward; a frozen teacher has a forward only. The pooler and the next-sentence head run once a
segment and are left out (below 0.01 %).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ofa.models.architecture import Shape
from ofa.timing import timed

TRAIN_FACTOR = 3
"""Forward and backward, in forwards."""


def encoder_flops(shape: Shape, length: float) -> float:
    """Forward of the encoder for one token of a segment of `length` tokens."""
    linear = 4 * shape.hidden * shape.attention_widths + shape.ffn_matrices * shape.hidden * shape.ffn_widths
    return 2 * linear + 4 * length * shape.attention_widths


def head_flops(shape: Shape) -> float:
    """Forward of the masked-LM head for one position: transform and decoder."""
    return 2 * shape.hidden * shape.embedding + 2 * shape.embedding * shape.vocab


def forward_flops(shape: Shape, length: float, head_share: float) -> float:
    """Forward for one token; `head_share` is the share of tokens that pass through the head."""
    return encoder_flops(shape, length) + head_share * head_flops(shape)


def train_flops(
    shape: Shape, length: float, head_share: float, teacher: Shape | None = None, distilled_share: float | None = None
) -> float:
    """Training for one token: forward and backward of the student, forward of the teacher.

    Args:
        length: tokens of the token's segment; for packed rows sum(s_i^2) / sum(s_i) (`mean_length`).
        head_share: predicted tokens / tokens.
        distilled_share: share of tokens whose logits are distilled, predicted ones among them; None: the predicted
            ones. With a teacher the student's head runs on these too.
    """
    share = head_share
    if teacher is not None and distilled_share is not None:
        share = max(head_share, distilled_share)
    student_flops = TRAIN_FACTOR * forward_flops(shape, length, share)
    return student_flops if teacher is None else student_flops + forward_flops(teacher, length, share)


def mean_length(document_ids: Tensor) -> float:
    """Length of the segment in which an average token stands: sum(s_i^2) / sum(s_i).

    Args:
        document_ids: [B, S] segment numbers of each row, 0 at padding; on the CPU, or this waits for the device.
    """
    rows, length = document_ids.shape
    of_row = torch.arange(rows, device=document_ids.device)[:, None] * (length + 1)
    sizes = torch.bincount((document_ids + of_row)[document_ids > 0]).double()
    return float(sizes.square().sum() / sizes.sum().clamp(min=1.0))


@lru_cache
def measure_peak_flops(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """Best rate of a large square matrix product, in operations per second: the denominator of `mfu`.

    8192^3 on an accelerator, 1024^3 on a CPU; the best of as many products as fit into `seconds`, at least three.
    Measured once in a process, also where its run has several stages.
    """
    device = torch.device(device)
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.mm(left, right)
    durations: list[float] = []
    while len(durations) < 3 or sum(durations) < seconds:
        durations.append(timed(lambda: torch.mm(left, right, out=out), device))
    return 2 * size**3 / min(durations)
