"""Encoded examples of one split, ragged: what a task's batches are cut from.

Arrays lie end to end, so that a million rows are a few arrays and padding exists in batches only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""Label of a token that has none."""


@dataclass(frozen=True)
class TaskRows:
    """N rows of T tokens in all. A row is an example, but for questions, whose long contexts give several windows."""

    tokens: np.ndarray
    """int32 [T], special tokens included."""
    token_types: np.ndarray
    """int8 [T], 1 in the second text."""
    lengths: np.ndarray
    """int64 [N]"""
    labels: np.ndarray | None
    """classification int64 [N]; regression float32 [N]; questions int64 [N, 2], first and last token of the answer
    within the row, 0 and 0 where it holds none; tokens int64 [T], IGNORED but at the first token of each word. None:
    the split has no labels."""
    examples: np.ndarray
    """int64 [N], number of the example that a row comes from, ascending."""
    offsets: np.ndarray | None = None
    """questions: int32 [T, 2], characters of the context that a token covers; -1 outside the context. Else None."""

    def __len__(self) -> int:
        return len(self.lengths)
