"""Values of a record as a task needs them: texts, lists of words, labels; or an error that names file and line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ofa.data.task_readers import Record
from ofa.data.task_records import value_of
from ofa.data.tasks import Task, TaskError
from ofa.sections.finetune import TaskConfig

OPTION = "task.{}_column"
"""How a config names a column."""

Label = str | float | list[str]


@dataclass(frozen=True)
class Column:
    """Where a value is found: the config's column alone, or the row's and what the hub calls it."""

    option: str
    """What names it, for errors."""
    names: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, config: TaskConfig, part: str, option: str = OPTION) -> Column:
        """`part`: text, pair or label; `option`: how somebody names a column of it."""
        own = getattr(task, part)
        given = getattr(config, f"{part}_column") is not None
        also = [getattr(task.hub, part)] if task.hub is not None and not given else []
        return cls(option.format(part), tuple(dict.fromkeys([own, *also])))

    def find(self, record: Record) -> Any:
        """The value; raises TaskError where there is no such column."""
        for name in self.names:
            try:
                return value_of(record.values, name)
            except KeyError:
                continue
        names = " or ".join(repr(name) for name in self.names)
        there = ", ".join(record.values)
        raise TaskError(f"{record.where}: no column {names}, there are {there}; set {self.option}")

    def problem(self, record: Record, expected: str, found: Any) -> TaskError:
        """The error of a value that is something else than expected."""
        shown = json.dumps(found, ensure_ascii=False, default=str)
        return TaskError(f"{record.where}, column {self.names[0]}: expected {expected}, found {shown[:80]}")


def text_of(column: Column, record: Record) -> str:
    """A text as it is."""
    value = column.find(record)
    if not isinstance(value, str):
        raise column.problem(record, "text", value)
    return value


def words_of(column: Column, record: Record) -> list[str]:
    """Words: a list of them, or a text in which spaces part them."""
    value = column.find(record)
    value = value.split() if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise column.problem(record, "a list of words, or words parted by spaces", value)
    return value


def label_of(task: Task, column: Column, record: Record) -> Label:
    """A class name, a number, or a list of names (tokens)."""
    value = column.find(record)
    if task.kind == "regression":
        return _number(column, record, value)
    if task.kind == "classification":
        return _name(task, column, record, value)
    value = value.split() if isinstance(value, str) else value
    if not isinstance(value, list):
        raise column.problem(record, "a list of labels, or labels parted by spaces", value)
    return [_name(task, column, record, one) for one in value]


def _name(task: Task, column: Column, record: Record, value: Any) -> str:
    """The class name that a file writes as a text, a whole number or a truth value."""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float) and value.is_integer():  # tables with gaps store whole numbers as floats
        value = int(value)
    if not isinstance(value, str | int) or not (name := str(value).strip()):
        raise column.problem(record, "a label", value)
    return name if name in task.labels else task.spellings.get(name, name)


def _number(column: Column, record: Record, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise column.problem(record, "a finite number", value)
    return number
