"""Files of examples, read record by record: tables, lines of JSON, SQuAD's articles, plain texts.

In: a file, or a stream. Out: one dict of columns for each example, with the place that it comes from for errors.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ofa.data.task_squad import read_articles
from ofa.data.tasks import Task, TaskError
from ofa.files import COMPRESSIONS, DAMAGE, is_utf8, open_bytes, open_text
from ofa.sections.finetune import TaskConfig

_CELL = 1 << 30
"""Characters of a cell; Python's limit of 128 k is below a long document."""


class Record(NamedTuple):
    """One example as it was found."""

    source: str
    """File or dataset."""
    place: str
    """`line 7`, `row 6`, a question's id."""
    values: dict[str, Any]
    """By column."""

    @property
    def where(self) -> str:
        """File and line, for errors."""
        return f"{self.source}, {self.place}"


def kind_of_file(path: Path) -> str | None:
    """The ending by which a file is read, what it is packed with left aside; None: it is of no kind that is read."""
    packed = path.suffix if path.suffix in COMPRESSIONS else ""
    kind = path.with_name(path.name.removesuffix(packed)).suffix
    return kind if kind in _READERS or (kind == ".parquet" and not packed) else None


def read_file(
    task: Task, config: TaskConfig, path: Path, counts: Counter[str], kind: str | None = None
) -> Iterator[Record]:
    """Records of one file, read as they are asked for.

    Args:
        task: its columns name those that a table must not have twice; its layout, where it has one, is the file's.
        config: the encoding.
        path: a file, compressed or not, or a stream.
        counts: of lines that were left out.
        kind: .txt, .tsv, .csv, .jsonl, .json or .parquet; None: what the file's name says.

    Raises:
        TaskError: naming file and line.
    """
    kind = kind or kind_of_file(path)
    assert kind is not None, f"{path} is of no kind that is read"
    try:
        if kind == ".parquet":
            yield from _read_parquet(path)
            return
        with open_text(path, config.encoding) as file:
            for place, values in _READERS[kind](file, task, path, counts):
                yield Record(str(path), place, values)
    except UnicodeError:
        raise TaskError(_decoding_problem(path, config.encoding)) from None
    except DAMAGE as error:
        raise TaskError(f"{path}: truncated or damaged ({error}); fetch it again") from error


_Values = Iterator[tuple[str, dict[str, Any]]]


def _read_tsv(file: Iterable[str], task: Task, path: Path, counts: Counter[str]) -> _Values:
    """In a published file cells are as they are, a quote is a character like any other, and further cells may stand at
    the end of a line; a user's own is CSV with tabs, as tables are written."""
    if not task.files:
        yield from _read_csv(file, task, path, counts, delimiter="\t")
        return
    rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(file, start=1) if line.strip())
    yield from _table(rows, task, path, counts)


def _read_csv(file: Iterable[str], task: Task, path: Path, counts: Counter[str], *, delimiter: str = ",") -> _Values:
    """Cells that may be quoted; a record of several lines is named by its last."""
    csv.field_size_limit(_CELL)
    reader = csv.reader(file, strict=True, delimiter=delimiter)
    try:
        yield from _table(((reader.line_num, cells) for cells in reader if cells), task, path, counts, exact=True)
    except csv.Error as error:
        raise TaskError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _table(
    rows: Iterator[tuple[int, list[str]]], task: Task, path: Path, counts: Counter[str], *, exact: bool = False
) -> _Values:
    """Rows under their header; further cells at the end of a line are allowed unless `exact`."""
    header: tuple[str, ...] | None = None
    for number, cells in rows:
        if header is None:
            header, is_data = _header(cells, task, f"{path}, line {number}")
            if not is_data:
                continue
        short = len(cells) < len(header)
        if short and task.drops_short_lines:
            counts["short lines"] += 1
            continue
        if short or (exact and len(cells) > len(header)):
            columns = f"{len(cells)} column{'s' * (len(cells) != 1)}, expected {len(header)} ({', '.join(header)})"
            raise TaskError(f"{path}, line {number}: {columns}; look for a stray separator or line break there")
        yield f"line {number}", dict(zip(header, cells, strict=False))


def _header(first: list[str], task: Task, where: str) -> tuple[tuple[str, ...], bool]:
    """Names of the columns, and whether the first line is an example itself."""
    wanted = [column for column in (task.text, task.pair, task.label) if column is not None]
    if all(column.isdecimal() for column in wanted):
        return tuple(map(str, range(len(first)))), True
    if task.header and task.text not in first:
        return task.header, True
    for column in wanted:
        if first.count(column) > 1:
            raise TaskError(f"{where}: {first.count(column)} columns are called {column!r}; rename all but one")
    return tuple(first), False


def _read_lines(file: Iterable[str], task: Task, path: Path, counts: Counter[str]) -> _Values:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
        if not isinstance(values, dict):
            raise TaskError(f"{path}, line {number}: expected a JSON object, found {type(values).__name__}")
        yield f"line {number}", values


def _read_texts(file: Iterable[str], task: Task, path: Path, counts: Counter[str]) -> _Values:
    """A text a line, also an empty one: lines are counted by who reads what comes of them."""
    for number, line in enumerate(file, start=1):
        yield f"line {number}", {task.text: line.rstrip("\r\n")}


def _read_articles(file: Any, task: Task, path: Path, counts: Counter[str]) -> _Values:
    return read_articles(file.read(), str(path))


_READERS = {".txt": _read_texts, ".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_lines, ".json": _read_articles}


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet  # half a second that other files need not wait for

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            features = about.get("info", {}).get("features", {})
            names = {column: found for column, one in features.items() if (found := _stored_names(one))}
            row = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    yield named(Record(str(path), f"row {row}", values), names)
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{path}: not a readable parquet file ({error})") from error


def _stored_names(feature: Any) -> list[str] | None:
    """Class names of a column, as `datasets` writes its features into parquet files."""
    if not isinstance(feature, dict):
        return None
    inner = feature.get("feature", feature)
    return inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None


def named(record: Record, names: dict[str, list[str]]) -> Record:
    """The record with class names in place of their ids, in the columns that have any; a negative id of a whole text
    stands for no label.

    Raises:
        TaskError: an id without a name.
    """
    for column, classes in names.items():
        found = record.values[column]
        if isinstance(found, list):
            record.values[column] = [_name(one, classes, record, column) for one in found]
        elif isinstance(found, int):
            record.values[column] = _name(found, classes, record, column) if found >= 0 else None
    return record


def _name(number: int, classes: list[str], record: Record, column: str) -> str:
    if not 0 <= number < len(classes):
        raise TaskError(
            f"{record.where}: {column} holds the class id {number}, and its {len(classes)} classes have the ids 0 to "
            f"{len(classes) - 1}"
        )
    return classes[number]


def _decoding_problem(path: Path, encoding: str) -> str:
    """Where a file stops being text in `encoding`, and in which it may be."""
    if not path.is_file():
        return f"{path}: not {encoding}, and a stream cannot be looked at again: write it to a file"
    with open_bytes(path) as file:
        data = file.read()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte 0x{data[error.start]:02x} at {error.start} (line {data.count(10, 0, error.start) + 1})"
    except UnicodeError as error:
        place = str(error)
    else:
        place = "its bytes"
    other = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1" if is_utf8(encoding) else "utf-8"
    return f"{path}: not {encoding}: {place}; set task.encoding={other}, or convert the file"
