"""The tasks that can be fine-tuned, one row each: GLUE, SQuAD, and the generic ones over a user's own columns.

In: the config's `task` section. Out: its row, with the config's columns and labels in place of the row's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["classification", "regression", "tokens", "questions"]


class TaskError(ValueError):
    """A task, its files or its labels that cannot be used: what was found, what was expected, where."""


@dataclass(frozen=True)
class Task:
    """One task; columns are names in the files' header, or numbers from 0 in files without one."""

    name: str
    kind: Kind
    """`classification` of a text or a pair, `regression` likewise, `tokens`: a class for every word, `questions`: a
    span of a context."""
    text: str
    """Column of the text; of the words (`tokens`)."""
    pair: str | None
    """Column of the second text."""
    label: str
    """Column of the label."""
    labels: tuple[str, ...]
    """Class names, in the order of the ids of the published datasets; () where the data say them."""
    metrics: tuple[str, ...]
    """What is reported, in this order (`ofa.downstream.scores`)."""
    best: str
    """The metric whose highest value picks the checkpoint that is exported."""
