"""One run of quantisation-aware training: a task model that learns to compute in 8 bits."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ofa.sections.base import Section
from ofa.sections.finetune import FinetuneConfig

PUBLISHED: dict[str, Any] = {
    "weights": "per_tensor",
    "weight_divisor": 127.5,
    "weight_range": "widest",
    "freeze_share": 0.0,
    "outputs": True,
    "calibration_rows": 1,
}
"""What `preset: published` has in place of the defaults. Outputs of queries and keys are quantised, as published, and
so ONNX Runtime computes their product in integers too; that of probabilities and values stays fp32 without
`attention_matmuls`."""


class QuantizationConfig(Section):
    """What is computed in 8 bits, and how ranges are found.

    Linears of the encoder, the pooler and the task head: weights symmetric int8, their inputs asymmetric uint8.
    LayerNorm, softmax, activation functions and sums stay in floating point, and the products of attention unless asked
    for.
    """

    preset: Literal["ours", "published"] = "ours"
    """Defaults of the other values: ours, or those of Prune Once for All (per tensor, divisor 127.5, widest ranges,
    outputs too, nothing frozen, ranges begun with the first batch)."""

    weights: Literal["per_channel", "per_tensor"] = "per_channel"
    """A scale for each output of a Linear, or one for all of its weights."""

    weight_divisor: float = Field(default=127.0, ge=127.0, le=127.5)
    """scale = largest magnitude / this; with 127.5 the largest positive weight is clipped (published)."""

    weight_range: Literal["current", "widest"] = "current"
    """The largest magnitude of the weights as they are, or of all that they have been, which never shrinks."""

    observer_constant: float = Field(default=0.01, gt=0.0, le=1.0)
    """c of the moving average of activation ranges, m <- m + c (m_batch - m), once an update."""

    begin_step: int = Field(default=0, ge=0)
    """Updates before anything is quantised."""

    freeze_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Last share of the steps in 8 bits, those from `begin_step` on, in which activation ranges stay as they are."""

    outputs: bool = False
    """Quantise also the outputs of Linears, but for values, for those that write to the residual stream and for the
    task head."""

    embeddings: bool = False
    """Quantise also the embedding tables."""

    attention_matmuls: bool = False
    """Quantise also both products of attention: queries and keys, probabilities and values."""

    exclude: list[str] = []
    """Regular expressions searched in module names such as `bert.encoder.layer.0.output.dense`: these Linears and
    tables stay in floating point. One that matches nothing is an error."""

    calibration_rows: int = Field(default=256, gt=0)
    """Training rows, rounded up to whole global batches, whose mean ranges activations begin with."""

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, values: Any) -> Any:
        """So that the resolved config says what was run."""
        if isinstance(values, dict) and values.get("preset") == "published":
            return {**PUBLISHED, **values}
        return values

    @field_validator("exclude")
    @classmethod
    def _exclude_are_patterns(cls, exclude: list[str]) -> list[str]:
        for pattern in exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no regular expression: {pattern!r}: {error}") from None
        return exclude


class QatConfig(FinetuneConfig):
    """One run of quantisation-aware training."""

    quantization: QuantizationConfig = QuantizationConfig()

    PLACES: ClassVar[dict[str, Any]] = FinetuneConfig.PLACES

    @model_validator(mode="after")
    def _nothing_is_pruned_on_the_way(self) -> QatConfig:
        if self.pruning is not None:
            raise ValueError("pruning comes before 8 bits: prune with launch/finetune.py, then keep the zeros (lock)")
        return self
