"""Fine-tuning around a stock task model: the module that the engine trains, and its teacher.

In: micro-batches of `ofa.data.task_batches`. Out: one loss, already divided by the count of the global batch, and its
terms.

    classification, tokens   ce_weight * CE + kd_weight * T^2 * KL(teacher || student)
    questions                the same for start and end, averaged (Prune OFA's 0.5 and 0.5), over the row's tokens:
                             padding takes part in no softmax
    regression               ce_weight * (y - label)^2 + kd_weight * (y - teacher)^2

A teacher's outputs are a function of the row alone, so for tasks of moderate size they are computed once and looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.config import TaskObjectiveConfig
from ofa.data.task_batches import TaskBatch, TaskTotals
from ofa.data.task_rows import IGNORED
from ofa.data.tasks import Kind
from ofa.models.adapters import adapter_for
from ofa.models.pretraining import ready_mask
from ofa.objectives import cross_entropy_sum, distillation_sum

NOWHERE = -1e30
"""Logit of a position that is padding: no share of any softmax, and no infinities in its logarithm."""


class TaskTraining(nn.Module):
    """A stock task model with its losses."""

    def __init__(self, model: PreTrainedModel, kind: Kind, objective: TaskObjectiveConfig):
        super().__init__()
        self.model = model
        self.kind: Kind = kind
        self._objective = objective

    def forward(
        self, batch: TaskBatch, totals: TaskTotals | None = None, targets: Tensor | None = None, scale: float = 1.0
    ) -> Any:
        """Loss of one micro-batch times `scale`, which undoes what the engine divides by, and its terms.

        Args:
            batch: with labels.
            totals: of the global batch; None: the logits are wanted, and nothing else (under ZeRO 3 they have to come
                out of the module that the engine wraps).
            targets: the teacher's logits, shaped like `logits`.
            scale: factor of the loss.

        Returns:
            The loss, and detached terms without weights and scale, which add up over micro-batches and ranks to means
            over the global batch: `label_loss`, `kd` with a teacher, and `correct`, a count (not for regression).
        """
        logits = task_logits(self.model, self.kind, batch)
        if totals is None:
            return logits
        counted, labels, taught = comparable(self.kind, logits, batch, targets)
        label_loss = label_loss_sum(self.kind, counted, labels) / totals.counted
        terms = {"label_loss": label_loss.detach()}
        loss = (self._objective.ce_weight or 0.0) * label_loss
        if taught is not None:
            distance = distance_sum(self.kind, counted, taught, self._objective.temperature) / totals.counted
            loss, terms = loss + (self._objective.kd_weight or 0.0) * distance, terms | {"kd": distance.detach()}
        if self.kind != "regression":
            terms["correct"] = correct_count(self.kind, counted, labels)
        return loss * scale, terms


def task_logits(model: PreTrainedModel, kind: Kind, batch: TaskBatch) -> Tensor:
    """Outputs of a stock task model: [B, C], [B] (regression), [B, S, C] (tokens), [B, S, 2] (questions)."""
    adapter = adapter_for(model.config.model_type)
    mask: Tensor | dict[str, Tensor] = batch.attention_mask
    if kind in ("tokens", "questions") or not adapter.takes_means(model.config):
        # Given the mask [B, S], transformers asks whether there is padding at all, and the host waits for the device.
        mask = ready_mask(model, batch.attention_mask[:, None, None, :].bool())
    inputs = {"input_ids": batch.input_ids, "attention_mask": mask}
    if adapter.takes_token_types(model.config):
        inputs["token_type_ids"] = batch.token_type_ids
    output = model(**inputs)
    if kind == "questions":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits.squeeze(-1) if kind == "regression" else output.logits


def comparable(
    kind: Kind, logits: Tensor, batch: TaskBatch, targets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, labels and the teacher's logits at what counts, in fp32: [N, C] rows of a softmax, or [N] numbers.

    Of tokens N = B S: those without a label have equal logits throughout, whose losses and gradients are exactly 0, so
    that nothing waits for the device to count them. Of questions N = 2 B: starts, then ends, padding at `NOWHERE`.
    """
    assert batch.labels is not None
    if kind == "tokens":
        ours, theirs = (None if one is None else _words(one, batch.labels) for one in (logits, targets))
        assert ours is not None
        return ours, batch.labels.flatten(), theirs
    if kind == "questions":
        ours = _spans(logits, batch.attention_mask)
        return ours, batch.labels.T.flatten(), None if targets is None else _spans(targets, batch.attention_mask)
    return logits.float(), batch.labels, None if targets is None else targets.float()


def label_loss_sum(kind: Kind, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over rows of the label loss; of questions the mean of start and end."""
    if kind == "regression":
        return (logits - labels).square().sum()
    return cross_entropy_sum(logits, labels) * (0.5 if kind == "questions" else 1.0)


def distance_sum(kind: Kind, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Sum over rows of the distillation loss; of questions the mean of start and end."""
    if kind == "regression":
        return (logits - targets).square().sum()
    return distillation_sum(logits, targets, temperature) * (0.5 if kind == "questions" else 1.0)


def correct_count(kind: Kind, logits: Tensor, labels: Tensor) -> Tensor:
    """Right answers; of questions those whose start and end both are."""
    right = logits.argmax(dim=-1) == labels
    return right.view(2, -1).all(dim=0).sum() if kind == "questions" else right.sum()


class TaskTeacher:
    """A frozen task model that is asked for every micro-batch. Not a module: see `ofa.models.pretraining.Teacher`."""

    def __init__(self, model: PreTrainedModel, kind: Kind, order: Sequence[int] | None):
        """
        Args:
            model: complete and frozen.
            kind: of task.
            order: where in its logits each of the student's classes stands; None: in the same place.
        """
        self.model = model.eval().requires_grad_(False)
        self._kind: Kind = kind
        self.order = order
        self._order = None if order is None else torch.tensor(order)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TaskTeacher:
        """Move and cast the weights."""
        nn.Module.to(self.model, device=device, dtype=dtype)
        self._order = None if self._order is None else self._order.to(device)
        return self

    def targets(self, batch: TaskBatch) -> Tensor:
        """Its logits for a micro-batch, classes in the student's order."""
        with torch.no_grad():
            logits = task_logits(self.model, self._kind, batch).float()
        return logits if self._order is None else logits.index_select(-1, self._order)


@dataclass(frozen=True)
class TaughtRows:
    """A teacher's outputs for every row of a split, looked up; end to end where rows have an output for each token."""

    values: Tensor
    """fp32 [N] or [N, C]; [T, C] for T tokens in all."""
    starts: Tensor | None
    """int64 [N], where each row's tokens begin in `values`; None: a row has one output."""

    def targets(self, batch: TaskBatch) -> Tensor:
        """As `TaskTeacher.targets`; zeros at padding."""
        if self.starts is None:
            return self.values[batch.row_ids]
        width = batch.input_ids.shape[1]
        places = self.starts[batch.row_ids][:, None] + torch.arange(width, device=self.values.device)
        real = batch.attention_mask.bool()
        return torch.where(real[..., None], self.values[places.where(real, 0)], 0.0)


def _words(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, S, C] logits as [B S, C] in fp32, 0 where there is no label."""
    return logits.float().masked_fill((labels == IGNORED)[..., None], 0.0).flatten(0, 1)


def _spans(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, S, 2] start and end logits as [2 B, S] in fp32, padding at `NOWHERE`."""
    masked = logits.float().masked_fill(attention_mask[..., None] == 0, NOWHERE)
    return masked.permute(2, 0, 1).flatten(0, 1)
