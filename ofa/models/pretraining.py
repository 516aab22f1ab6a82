"""Masked-language-model pre-training around a stock model: the module that the engine trains, and its teacher.

In: micro-batches of packed rows (`ofa.data.batches`). Out: one loss, already divided by the counts of the
global batch, and its terms.

The stock model's own forward is not used: it runs the head on every position and pools only the first [CLS] of a row.
Its modules are: the encoder on packed rows, in which tokens see their own segment only; the head on the positions that
count; the pooler on every segment's [CLS].

Shapes: B rows of S tokens, N head positions, M segments, h hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ofa.config import ObjectiveConfig
from ofa.data.batches import MicroBatch, Totals
from ofa.models.adapters import Adapter, adapter_for
from ofa.objectives import (
    TeacherRows,
    chunked_loss,
    cosine_distance_sum,
    cross_entropy_sum,
    distillation_sum,
)


@dataclass(frozen=True)
class TeacherTargets:
    """What a teacher says about one micro-batch; none of it needs a gradient."""

    rows: TeacherRows | None
    """At the positions of `head_positions`; None where only hidden states are distilled."""
    pair_logits: Tensor | None
    """[M, 2]"""
    hidden: Tensor | None
    """Last hidden state [B, S, h]; None unless hidden states are distilled."""


class MaskedLanguageModeling(nn.Module):
    """A stock model with its pre-training losses."""

    def __init__(self, model: PreTrainedModel, objective: ObjectiveConfig):
        super().__init__()
        self.model = model
        self._objective = objective
        self._ce_weight, self._kd_weight = _weights(objective)
        self._adapter = adapter_for(model.config.model_type)
        self.has_pair_head = has_pair_head(model, self._adapter)

    def forward(
        self, batch: MicroBatch, totals: Totals, targets: TeacherTargets | None = None, scale: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, and its terms.

            loss = scale * (ce_weight * (CE_mlm + CE_nsp) + kd_weight * (KD_mlm + KD_nsp) + hidden_weight * cosine)

        Each part is its sum over this micro-batch divided by its count in the global batch, so the parts of all
        micro-batches of all ranks add up to the global mean. `scale` undoes what the engine divides by.

        Returns:
            The loss, and detached terms without weights and scale, which add up likewise: `masked_lm`, `masked_lm_kd`,
            `nsp`, `nsp_kd`, `hidden` as far as they exist, and `correct`, the number of right masked predictions.
        """
        hidden = encode(self.model, self._adapter, batch)
        loss, terms = self._masked_lm(hidden, batch, totals, targets)
        if batch.pair_starts is not None and self.has_pair_head:
            pair_loss, pair_terms = self._pairs(hidden, batch, totals, targets)
            loss, terms = loss + pair_loss, terms | pair_terms
        if targets is not None and targets.hidden is not None:
            distance = cosine_distance_sum(hidden, targets.hidden, batch.document_ids > 0) / totals.tokens
            loss, terms = loss + self._objective.hidden_weight * distance, terms | {"hidden": distance.detach()}
        return loss * scale, terms

    def _masked_lm(
        self, hidden: Tensor, batch: MicroBatch, totals: Totals, targets: TeacherTargets | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rows = targets.rows if targets is not None else None
        positions = head_positions(batch, distil=rows is not None)
        distilled = totals.predicted if batch.distilled is None else totals.distilled
        sums = chunked_loss(
            transform(self.model, self._adapter, hidden.flatten(0, 1)[positions]),
            *decoder_of(self.model, self._adapter),
            batch.labels,
            rows,
            ce_scale=self._ce_weight / totals.predicted,
            kd_scale=self._kd_weight / distilled if rows is not None else 0.0,
            temperature=self._objective.temperature,
            chunk_rows=self._objective.chunk_rows,
        )
        terms = {"masked_lm": sums.cross_entropy / totals.predicted, "correct": sums.correct}
        if rows is not None:
            terms["masked_lm_kd"] = sums.distillation / distilled
        return sums.loss, terms

    def _pairs(
        self, hidden: Tensor, batch: MicroBatch, totals: Totals, targets: TeacherTargets | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.pair_labels is not None
        logits = pair_logits(self.model, self._adapter, hidden, batch)
        cross_entropy = cross_entropy_sum(logits, batch.pair_labels) / totals.pairs
        loss, terms = self._ce_weight * cross_entropy, {"nsp": cross_entropy.detach()}
        if targets is not None and targets.pair_logits is not None:
            distance = distillation_sum(logits, targets.pair_logits, self._objective.temperature) / totals.pairs
            loss, terms = loss + self._kd_weight * distance, terms | {"nsp_kd": distance.detach()}
        return loss, terms


class Teacher:
    """A frozen model that is asked for targets. Not a module: nothing that collects a student's parameters, buffers or
    state can find it."""

    def __init__(self, model: PreTrainedModel, objective: ObjectiveConfig):
        self.model = model.eval().requires_grad_(False)
        self._objective = objective
        self._adapter = adapter_for(model.config.model_type)
        self._has_pair_head = has_pair_head(model, self._adapter)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Teacher:
        """Move and cast the weights."""
        nn.Module.to(self.model, device=device, dtype=dtype)
        return self

    def targets(self, batch: MicroBatch) -> TeacherTargets:
        """What the student is to learn from this micro-batch: hidden states of the head, never logits."""
        with torch.no_grad():  # not inference_mode: its tensors cannot be saved for a backward, which the cosine needs
            return self._targets(batch)

    def _targets(self, batch: MicroBatch) -> TeacherTargets:
        hidden = encode(self.model, self._adapter, batch)
        rows = pairs = None
        if self._objective.kd_weight:
            positions = head_positions(batch, distil=True)
            transformed = transform(self.model, self._adapter, hidden.flatten(0, 1)[positions])
            rows = TeacherRows(transformed, *decoder_of(self.model, self._adapter))
            if batch.pair_starts is not None and self._has_pair_head:
                pairs = pair_logits(self.model, self._adapter, hidden, batch)
        return TeacherTargets(rows, pairs, hidden if self._objective.hidden_weight else None)


def head_positions(batch: MicroBatch, *, distil: bool) -> Tensor:
    """Flat indices [N] of the tokens that pass through the head: the predicted ones first, then the others that are
    distilled."""
    if not distil or batch.distilled is None:
        return batch.predicted
    only_distilled = torch.ones(batch.input_ids.numel(), dtype=torch.bool, device=batch.input_ids.device)
    only_distilled[batch.predicted] = False
    # A sort, because selecting by a boolean would make the host wait for the device.
    order = torch.argsort(only_distilled[batch.distilled].to(torch.uint8), stable=True)
    return batch.distilled[order]


def encode(model: PreTrainedModel, adapter: Adapter, batch: MicroBatch) -> Tensor:
    """Last hidden state [B, S, h] of packed rows."""
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": document_attention_mask(model, batch.document_ids),
        "position_ids": batch.position_ids + adapter.position_offset(model.config),
    }
    if batch.token_type_ids is not None and adapter.takes_token_types(model.config):
        inputs["token_type_ids"] = batch.token_type_ids
    # The stock pooler also runs on position 0 of each row here; one row in S costs less than taking the model apart.
    return model.get_submodule(adapter.base)(**inputs).last_hidden_state


def document_attention_mask(model: PreTrainedModel, document_ids: Tensor) -> Tensor | dict[str, Tensor]:
    """Mask [B, 1, S, S] under which tokens see their own segment; padding sees padding, so no row is empty."""
    return ready_mask(model, document_ids[:, None, :, None] == document_ids[:, None, None, :])


def ready_mask(model: PreTrainedModel, visible: Tensor) -> Tensor | dict[str, Tensor]:
    """A boolean [B, 1, S or 1, S], which query sees which key, as stock models take it without a look at its values.

    Boolean for SDPA; eager attention adds its mask to the scores, so there it is 0 or the lowest number. For each kind
    of layer where some see a window only; in it a token sees itself always, so that no row of padding is empty.
    """
    if not adapter_for(model.config.model_type).windowed:
        return _as_taken(model, visible)
    places = torch.arange(visible.shape[-1], device=visible.device)
    apart = (places[:, None] - places).abs()
    near = (visible & (apart <= model.config.sliding_window)) | (apart == 0)
    return {"full_attention": _as_taken(model, visible), "sliding_attention": _as_taken(model, near)}


def _as_taken(model: PreTrainedModel, visible: Tensor) -> Tensor:
    if model.config._attn_implementation != "eager":
        return visible
    lowest = torch.finfo(model.dtype).min
    return torch.zeros_like(visible, dtype=model.dtype).masked_fill_(~visible, lowest)


def transform(model: PreTrainedModel, adapter: Adapter, rows: Tensor) -> Tensor:
    """The masked-LM head before its decoder: [N, h] -> [N, h]."""
    for step in adapter.head:
        rows = model.get_submodule(step)(rows) if isinstance(step, str) else step(rows)
    return rows


def decoder_of(model: PreTrainedModel, adapter: Adapter) -> tuple[Tensor, Tensor]:
    """Weight [V, h] and bias [V] that make logits of the transformed rows."""
    decoder = model.get_submodule(adapter.decoder)
    assert isinstance(decoder, nn.Linear)
    return decoder.weight, decoder.bias


def has_pair_head(model: PreTrainedModel, adapter: Adapter) -> bool:
    """Whether the model carries a next-sentence head."""
    return adapter.nsp is not None and any(name == adapter.nsp for name, _ in model.named_modules())


def pair_logits(model: PreTrainedModel, adapter: Adapter, hidden: Tensor, batch: MicroBatch) -> Tensor:
    """Next-sentence logits [M, 2] of every segment; the pooler takes the first token of what it is given."""
    assert adapter.pooler is not None and adapter.nsp is not None and batch.pair_starts is not None
    first_tokens = hidden.flatten(0, 1)[batch.pair_starts]
    pooled = model.get_submodule(adapter.pooler)(first_tokens[:, None])
    return model.get_submodule(adapter.nsp)(pooled)


def _weights(objective: ObjectiveConfig) -> tuple[float, float]:
    """Weights of labels and of distillation; a run's config has filled in what its file left to the teacher section."""
    assert objective.ce_weight is not None and objective.kd_weight is not None, "give ce_weight and kd_weight"
    return objective.ce_weight, objective.kd_weight
