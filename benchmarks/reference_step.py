"""The parts of a training step done the published code's way, in plain transformers and torch.

In: a stock masked-LM model. Out: a loss with logits at every position of every row, distilled at all positions that
are not padding, and masks that are multiplied into every forward. Written from the description of the method (Zafrir et
al., Prune Once for All), not copied: it is what the step benchmark holds ours against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from benchmarks.step_batches import IGNORED, StepBatch
from ofa.models.adapters import adapter_for
from ofa.models.pretraining import decoder_of, document_attention_mask, transform

TEMPERATURE = 2.0


def stock_inputs(model: PreTrainedModel, batch: StepBatch) -> dict[str, Any]:
    """What the stock forward takes: a mask [B, S] of real tokens, or [B, 1, S, S] with positions for packed rows."""
    if batch.layout != "packed":
        return {"input_ids": batch.micro.input_ids, "attention_mask": batch.real.long()}
    offset = adapter_for(model.config.model_type).position_offset(model.config)
    return {
        "input_ids": batch.micro.input_ids,
        "attention_mask": document_attention_mask(model, batch.micro.document_ids),
        "position_ids": batch.micro.position_ids + offset,
    }


def full_head_loss(model: PreTrainedModel, teacher: PreTrainedModel | None, batch: StepBatch) -> Tensor:
    """Cross-entropy of the stock forward, and distillation at every real position.

    0.5 * CE + 0.5 * T^2 * KL(softmax(t / T) || softmax(z / T)),  T = 2, KL averaged over real positions
    """
    output = model(**stock_inputs(model, batch), labels=batch.labels)
    if teacher is None:
        return output.loss
    with torch.no_grad():
        logits = teacher(**stock_inputs(teacher, batch)).logits
    chosen = batch.real[:, :, None]
    vocab = logits.shape[-1]
    student_rows = output.logits.masked_select(chosen).view(-1, vocab)
    return 0.5 * output.loss + 0.5 * _distillation(student_rows, logits.masked_select(chosen).view(-1, vocab))


def gathered_head_loss(model: PreTrainedModel, teacher: PreTrainedModel | None, batch: StepBatch) -> Tensor:
    """The same two losses with heads that run at predicted positions only; distilled are these."""
    logits = _logits_at(model, batch)
    cross_entropy = functional.cross_entropy(logits.float(), batch.micro.labels, ignore_index=IGNORED)
    if teacher is None:
        return cross_entropy
    with torch.no_grad():
        taught = _logits_at(teacher, batch)
    return 0.5 * cross_entropy + 0.5 * _distillation(logits, taught)


def _logits_at(model: PreTrainedModel, batch: StepBatch) -> Tensor:
    adapter = adapter_for(model.config.model_type)
    hidden = model.get_submodule(adapter.base)(**stock_inputs(model, batch)).last_hidden_state
    rows = transform(model, adapter, hidden.flatten(0, 1)[batch.micro.predicted])
    return functional.linear(rows, *decoder_of(model, adapter))


def _distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    student = functional.log_softmax(student_logits / TEMPERATURE, dim=-1)
    teacher = functional.softmax(teacher_logits / TEMPERATURE, dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


@contextmanager
def masked_in_forward(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """While this is open, every forward of a masked Linear first computes weight = weight_original * mask.

    Args:
        model: its Linears keep their parameters, which stand under `weight_original` meanwhile.
        masks: [out, in] of 0 and 1 in the weights' dtype, by the parameter's name.
    """
    handles = []
    linears = {name: model.get_submodule(name.removesuffix(".weight")) for name in masks}
    for name, linear in linears.items():
        linear.register_parameter("weight_original", linear._parameters.pop("weight"))
        handles.append(linear.register_forward_pre_hook(_multiply(masks[name])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for linear in linears.values():
            linear.__dict__.pop("weight", None)
            linear.register_parameter("weight", linear._parameters.pop("weight_original"))


def _multiply(mask: Tensor):
    def hook(linear: nn.Module, _: tuple[Tensor, ...]) -> None:
        linear.weight = linear.weight_original * mask  # type: ignore[operator]

    return hook
