"""The sections that say what is trained, from whom it learns, and by which loss."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ofa.sections.base import Section


class ModelConfig(Section):
    """The student: what is trained, pruned and exported."""

    init: str | None = None
    """Weights to start from: a local folder or a hub id. null draws fresh weights from `seed`."""

    architecture: dict[str, Any]
    """`model_type` and any other value of the transformers config. With `init` it must agree with the folder's
    config.json; it lets a recipe be planned and checked before the weights exist."""

    task: Literal["mlm", "mlm_nsp"] = "mlm"
    """Heads: masked-LM alone, or masked-LM and next-sentence prediction (needs `segment_pair_nsp` data)."""

    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overrides every dropout probability of the architecture."""

    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers."""


class TeacherConfig(Section):
    """A frozen dense model whose predictions the student learns from."""

    init: str
    """A local folder or a hub id; vocabulary and tokenizer must be the student's."""


class ObjectiveConfig(Section):
    """L = ce_weight * (CE_mlm + CE_nsp) + kd_weight * (KD_mlm + KD_nsp) + hidden_weight * cosine."""

    ce_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the label losses; null: 0.5 with a teacher, 1 without."""

    kd_weight: float | None = Field(default=None, ge=0.0)
    """Weight of the distillation losses; null: 0.5 with a teacher, 0 without."""

    temperature: float = Field(default=2.0, gt=0.0)
    """Softens both distributions; the loss is multiplied by its square."""

    kd_positions: str = Field(default="masked", pattern=r"^(masked|all|sample:(0?\.\d+|1(\.0*)?))$")
    """Where distillation compares logits: `masked` (predicted tokens), `all` (every real token, the published
    method), or `sample:p` (a fixed share p of the real tokens of each row, predicted ones always among them)."""

    hidden_weight: float = Field(default=0.0, ge=0.0)
    """Weight of 1 - cosine between the last hidden states of student and teacher at every real token."""

    chunk_rows: int = Field(default=1024, gt=0)
    """Positions whose logits exist at one time."""
