"""The sections of prepared data as training reads it."""

from __future__ import annotations

from pydantic import Field, model_validator

from ofa.sections.base import Section


class DataConfig(Section):
    """Prepared shards and how tokens are masked when rows are loaded."""

    path: str
    """Folder made by `python -m data_prep`: manifest.json, train/, validation/, tokenizer/."""

    sequence_length: int = Field(gt=0)
    """Tokens in a packed row. Owned by the shards; repeated here so that a recipe can be planned without them, and
    checked against the manifest."""

    mask_probability: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of a row's maskable tokens that is predicted. The number per row is fixed: rounded, at least one."""

    max_predictions: int | None = Field(default=None, gt=0)
    """Upper limit of predicted tokens in a row; null: ceil(mask_probability * sequence_length)."""

    mask_token_share: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of predicted tokens replaced by [MASK] (BERT section 3.1)."""

    random_token_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of predicted tokens replaced by a random token; the rest keeps its token."""

    whole_word_masking: bool = False
    """Choose whole words instead of single WordPieces."""

    shuffle_window: int = Field(default=16, gt=0)
    """Records whose rows are shuffled together; larger mixes more and reads more ahead."""

    workers: int = Field(default=1, ge=0, le=256)
    """Threads of each rank that read and mask ahead of the step; 0 does it between the steps."""

    @model_validator(mode="after")
    def _shares_fit(self) -> DataConfig:
        if self.mask_token_share + self.random_token_share > 1.0:
            raise ValueError("mask_token_share + random_token_share must not exceed 1")
        return self

    def predictions_limit(self) -> int:
        """Most positions of one row that can be predicted."""
        default = -(-round(self.mask_probability * self.sequence_length * 10**6) // 10**6)
        return self.max_predictions or default


class BatchConfig(Section):
    """Rows per optimizer step; gradient accumulation is derived from these and the world size."""

    global_size: int = Field(gt=0, le=1 << 20)
    """Rows of one optimizer step over all ranks."""

    micro_size: int = Field(gt=0, le=1 << 20)
    """Rows of one forward on one rank."""
