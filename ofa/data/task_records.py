"""Records of a split from wherever they are: files or a dataset.

In: the task's row and the config. Out: one dict of columns for each example, with the place that it comes from for
errors. What the columns mean is the business of `ofa.data.task_sources`.

Everything could have gone through `datasets`; its readers of text know neither GLUE's unbalanced quotes nor the line in
which something is wrong, and start in seconds.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ofa.data.task_files import find_files
from ofa.data.task_squad import read_articles
from ofa.data.tasks import NoSplitError, Task, TaskError
from ofa.files import DAMAGE, is_utf8, open_bytes, open_text
from ofa.sections.finetune import TaskConfig

SPLITS = ("train", "validation", "test")
"""What a split column may say."""

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


def source_of(task: Task, config: TaskConfig) -> str:
    """The folder or dataset that the task is read from, for people."""
    if config.path is not None:
        return config.path
    assert task.hub is not None or config.dataset is not None
    return config.dataset or (task.hub.dataset if task.hub else "")


def read_records(task: Task, config: TaskConfig, split: str, counts: Counter[str]) -> Iterator[Record]:
    """Records of `split` in order; lines that the task's row allows to leave out are counted.

    Raises:
        TaskError: naming file and line.
    """
    if config.path is not None:
        files = find_files(task, config, split)
        records = (record for path in files for record in _read_file(task, config, path, counts))
    else:
        records = _read_dataset(task, config, split)
    return records if config.split_column is None else _of_split(records, config.split_column, split)


def value_of(values: dict[str, Any], column: str) -> Any:
    """The value of a column, whose dots lead into objects; raises KeyError."""
    if column in values:
        return values[column]
    found: Any = values
    for part in column.split("."):
        if not isinstance(found, dict):
            raise KeyError(column)
        found = found[part]
    return found


def _of_split(records: Iterator[Record], column: str, split: str) -> Iterator[Record]:
    if split not in SPLITS:
        raise TaskError(f"no split {split}: column {column} knows {', '.join(SPLITS)}")
    for record in records:
        try:
            found = value_of(record.values, column)
        except KeyError:
            there = ", ".join(record.values)
            raise TaskError(f"{record.where}: no column {column!r}, there are {there}; set task.split_column") from None
        if found not in SPLITS:
            raise TaskError(f"{record.where}: split {found!r} in column {column}; expected one of {', '.join(SPLITS)}")
        if found == split:
            yield record


def _read_file(task: Task, config: TaskConfig, path: Path, counts: Counter[str]) -> Iterator[Record]:
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
            return
        kind = next(suffix for suffix in path.suffixes[::-1] if suffix in _READERS)
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


def _read_articles(file: Any, task: Task, path: Path, counts: Counter[str]) -> _Values:
    return read_articles(file.read(), str(path))


_READERS = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_lines, ".json": _read_articles}


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
                    yield _named(Record(str(path), f"row {row}", values), names)
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{path}: not a readable parquet file ({error})") from error


def _stored_names(feature: Any) -> list[str] | None:
    """Class names of a column, as `datasets` writes its features into parquet files."""
    if not isinstance(feature, dict):
        return None
    inner = feature.get("feature", feature)
    return inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None


def _named(record: Record, names: dict[str, list[str]]) -> Record:
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


def _read_dataset(task: Task, config: TaskConfig, split: str) -> Iterator[Record]:
    """Rows of a dataset of the hub, a folder that `datasets` can read, or one that it saved."""
    name, wanted = source_of(task, config), _dataset_split(task, config, split)
    try:
        rows = _load_dataset(name, _subset(task, config), wanted)
    except Exception as error:  # of any kind: what the network, the hub or a damaged file can do
        reason = str(error).strip().split("\n")[0]
        absent = isinstance(error, KeyError) or reason.startswith("Unknown split")
        raise (NoSplitError if absent else TaskError)(
            f"task.dataset {name}, split {wanted}: {reason} ({type(error).__name__}); without a network give "
            "task.path, a folder of files, or task.dataset, a folder that datasets saved"
        ) from error
    names = {}
    for column, feature in rows.features.items():
        inner = getattr(feature, "feature", feature)
        if getattr(inner, "names", None):
            names[column] = inner.names
    for row, values in enumerate(rows):
        yield _named(Record(f"{name}, split {wanted}", f"row {row}", dict(values)), names)


def _load_dataset(name: str, subset: str | None, split: str) -> Any:
    import datasets  # seconds, and only here needed

    folder = Path(name).expanduser()
    if (folder / "dataset_dict.json").is_file():
        return datasets.DatasetDict.load_from_disk(str(folder))[split]
    return datasets.load_dataset(str(folder) if folder.is_dir() else name, subset, split=split)


def _dataset_split(task: Task, config: TaskConfig, split: str) -> str:
    """The dataset's name of our split; several are joined as `datasets` reads them."""
    if config.split_column is not None:
        return "+".join(config.train or ["train"])
    given = {"train": config.train, "validation": config.validation}.get(split)
    return "+".join(given) if given else (task.hub.splits if task.hub else {}).get(split, split)


def _subset(task: Task, config: TaskConfig) -> str | None:
    own = task.hub is not None and config.dataset in (None, task.hub.dataset)
    return config.subset or (task.hub.subset if own and task.hub else None)


def _decoding_problem(path: Path, encoding: str) -> str:
    """Where a file stops being text in `encoding`, and in which it may be."""
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
