"""A file of texts through a model, to a file of what it says: one line of JSON a row, in the rows' order.

In: a table, lines of JSON, plain texts, SQuAD's articles, or a stream of one of these. Out: `{"id": ..., ...}` with the
row's own id where it has one, else its number from 0, and the fields of `Predictor.__call__`.

Rows are read, asked and written in parts, so that neither the input nor its answers have to fit into memory; the file
is written under a hidden name and gets its own at the end, so that what stands there is whole. To append to the final
file was left aside: half of it would look like all of it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ofa.config import TaskConfig
from ofa.data.task_readers import Record, kind_of_file, read_file
from ofa.data.task_sources import ID_COLUMNS, unlabelled
from ofa.data.task_values import Column
from ofa.data.tasks import Task
from ofa.files import explained_space, new_file
from ofa.predictor import InferenceError, Predictor

STREAM = Path("/dev/stdin")

KINDS = ("txt", "csv", "tsv", "jsonl", "json", "parquet")
"""Endings of files that are read; `json` is SQuAD's layout."""

PART = 32
"""Batches that are read before any is computed: rows of like length come together."""

OPTION = "--{}-column"
"""How the command line names a column."""


@dataclass(frozen=True)
class Input:
    """Where rows come from."""

    path: Path | None
    """None: the standard input."""
    kind: str | None = None
    """One of KINDS; None: as the file's name says, a stream has texts."""
    text_column: str | None = None
    """None: as the model was trained; likewise the pair's."""
    pair_column: str | None = None
    """Of second texts; of contexts."""
    id_column: str | None = None
    """None: the first of ID_COLUMNS that the first row has."""
    encoding: str = "utf-8"

    @property
    def ending(self) -> str:
        """By which it is read.

        Raises:
            InferenceError: it is of no kind that is read.
        """
        by_name = ".txt" if self.path is None else kind_of_file(self.path)
        ending = by_name if self.kind is None else f".{self.kind}"
        if ending is None or ending[1:] not in KINDS:
            raise InferenceError(f"{self.path}: expected a file ending in {', '.join(KINDS)}; or say which: --format")
        return ending

    def __str__(self) -> str:
        return "the standard input" if self.path is None else str(self.path)


@dataclass(frozen=True)
class Done:
    """How far it has come."""

    rows: int
    cut: int
    """What the model has not seen (`TaskRows.cut`)."""


def predict_file(
    predictor: Predictor,
    given: Input,
    output: Path | None,
    *,
    batch_size: int = 32,
    null_threshold: float | None = None,
) -> Iterator[Done]:
    """Write what a model says of every row; yields after each part.

    Args:
        predictor: the model.
        given: the rows.
        output: the file, which is replaced where one stands there; None: the standard output.
        batch_size, null_threshold: as `Predictor.__call__`.

    Raises:
        InferenceError: an input of no kind that is read, without rows, or that does not fit the model.
        TaskError: naming file and line: what cannot be read, a column that is missing, a value that is no text.
    """
    task, config = _columns(predictor, given)
    records = read_file(task, config, given.path or STREAM, Counter(), given.ending)
    key = None
    done = Done(0, 0)
    with _opened(output) as file:
        while part := list(islice(records, PART * batch_size)):
            if not done.rows:
                key = _id_column(part[0], given.id_column, task)
            examples = unlabelled(task, config, part, OPTION)
            found = predictor.ask(examples, batch_size=batch_size, null_threshold=null_threshold)
            ids = [done.rows + place if key is None else _id(record, key) for place, record in enumerate(part)]
            file.writelines(f"{encoded({'id': one, **said})}\n" for one, said in zip(ids, found.results, strict=True))
            file.flush()
            done = Done(done.rows + len(part), done.cut + found.cut)
            yield done
        if not done.rows:
            raise InferenceError(f"{given} has no rows")


def encoded(said: dict[str, Any]) -> str:
    """A line."""
    return json.dumps(said, ensure_ascii=False)


def check_places(given: Input, output: Path | None, *, overwrite: bool) -> None:
    """Refuse to begin what could not be read or written.

    Raises:
        InferenceError: no file to read, or none of a kind that is; something stands where the output is to go, or its
            folder does not.
    """
    if given.path is not None and not given.path.is_file():
        raise InferenceError(f"{given}: no such file (working directory {Path.cwd()})")
    if given.ending == ".parquet" and given.path is None:
        raise InferenceError("parquet cannot be read from a stream: give the file")
    if output is None:
        return
    if output.is_dir() or not output.absolute().parent.is_dir():
        found = "is a folder" if output.is_dir() else "is to stand in a folder that is not there"
        raise InferenceError(f"{output} {found}: give the path of a file")
    if output.exists() and not overwrite:
        raise InferenceError(f"{output} is there already: give another --output, or --overwrite")


def _columns(predictor: Predictor, given: Input) -> tuple[Task, TaskConfig]:
    """The model's task with the input's columns; with columns of the user's own, a file is no published one."""
    task, config = predictor.opened.task, predictor.opened.config
    columns = {"text_column": given.text_column, "pair_column": given.pair_column}
    if any(columns.values()):
        if given.ending == ".txt":
            raise InferenceError("a text a line has no columns: give a table, or leave --text-column and --pair-column")
        config = config.model_copy(update={key: value for key, value in columns.items() if value is not None})
        own: dict[str, Any] = {"files": {}, "header": (), "drops_short_lines": False}
        task = replace(task, text=given.text_column or task.text, pair=given.pair_column or task.pair, **own)
    predictor.check_pairs(task.pair is not None and given.ending != ".txt")
    return replace(task, label=task.text), config.model_copy(update={"encoding": given.encoding})


def _id_column(first: Record, given: str | None, task: Task) -> Column | None:
    """None: rows are numbered."""
    found = given or next((name for name in ID_COLUMNS if name in first.values and name != task.text), None)
    return None if found is None else Column("--id-column", (found,))


def _id(record: Record, column: Column) -> Any:
    found = column.find(record)
    return found if found is None or isinstance(found, str | int) else str(found)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with explained_space(output.absolute().parent, "predictions", "free some, or give another --output"):  # noqa: SIM117
        with new_file(output) as file:
            yield file
