"""Records of a split from wherever they are: files or a dataset.

In: the task's row and the config. Out: one dict of columns for each example, with the place that it comes from for
errors. What the columns mean is the business of `ofa.data.task_sources`.

Everything could have gone through `datasets`; its readers of text know neither GLUE's unbalanced quotes nor the line in
which something is wrong, and start in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ofa.data.task_files import find_files
from ofa.data.task_readers import Record, named, read_file
from ofa.data.tasks import NoSplitError, Task, TaskError
from ofa.sections.finetune import TaskConfig

SPLITS = ("train", "validation", "test")
"""What a split column may say."""


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
        records = (record for path in files for record in read_file(task, config, path, counts))
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
        yield named(Record(f"{name}, split {wanted}", f"row {row}", dict(values)), names)


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
