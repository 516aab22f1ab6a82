"""Which files hold a split of a task.

In: the task's row and the config. Out: paths in a fixed order, or an error that says what is there instead. No file is
read, so that a wrong folder is refused within a second.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from ofa.config import command_that_makes
from ofa.data.tasks import NoSplitError, Task, TaskError
from ofa.files import COMPRESSIONS
from ofa.sections.finetune import TaskConfig

TABLES = (*(kind + packed for kind in (".tsv", ".csv", ".jsonl") for packed in COMPRESSIONS), ".parquet")
QUESTIONS = (*(".json" + packed for packed in COMPRESSIONS), *TABLES[-5:])
"""Endings of files that are read; questions come as SQuAD's JSON, or as the rows of the hub's dataset."""

_OTHER_NAMES = {"validation": ("dev",)}
LISTED = 12
"""Names of a folder's entries that an error gives."""


def check_files(task: Task, config: TaskConfig) -> None:
    """Raise TaskError unless the files of training and validation are there; a dataset of the hub is not asked for."""
    if config.path is not None:
        for split in ("train", "validation"):
            find_files(task, config, split)
    elif config.dataset is not None and _is_path(config.dataset) and not Path(config.dataset).expanduser().is_dir():
        raise TaskError(f"task.dataset: no folder {config.dataset} (working directory {Path.cwd()})")


def find_files(task: Task, config: TaskConfig, split: str) -> list[Path]:
    """Files of `split` below `config.path`, each once: in the order of the config's patterns, sorted within one.

    Raises:
        TaskError: no folder, no such split, a pattern that matches nothing, or a file of a kind that is not read.
    """
    assert config.path is not None
    _check_encoding(config.encoding)
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise TaskError(
            f"task.path: expected a folder, found {_kind(folder)} (working directory {Path.cwd()}); "
            f"{_where_from(task, config.path)}"
        )
    given = {"train": config.train, "validation": config.validation}.get(split)
    if config.split_column is not None:
        given = _both(config)
        return _matching(folder, given, task) if given else _every(folder, task)
    if given is not None:
        return _matching(folder, given, task)
    if split not in task.splits():
        raise TaskError(f"task {task.name} has no split {split}, only {', '.join(task.splits())}")
    return _usual(folder, task, split)


def endings(task: Task) -> tuple[str, ...]:
    """Endings of the files that a task is read from."""
    return QUESTIONS if task.kind == "questions" else TABLES


def _check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise TaskError(f"task.encoding: {encoding!r} is no encoding; try utf-8, latin-1 or cp1252") from None


def _both(config: TaskConfig) -> list[str]:
    """Patterns of the files that hold both splits; []: none are given."""
    return list(dict.fromkeys([*(config.train or []), *(config.validation or [])]))


def _matching(folder: Path, patterns: list[str], task: Task) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).is_absolute():
            raise TaskError(f"task.train and task.validation are below task.path, found {pattern}")
        matches = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not matches:
            raise TaskError(f"task.path: {pattern} matches no file in {folder}; there are {_entries(folder)}")
        for path in matches:
            if not path.name.endswith(endings(task)):
                raise TaskError(f"{path}: expected a file ending in {', '.join(endings(task))}")
        found |= dict.fromkeys(matches)
    return list(found)


def _usual(folder: Path, task: Task, split: str) -> list[Path]:
    """The task's original file, compressed or not; else what users and the hub call a split's files."""
    for name in task.files.get(split, ()):
        for path in (folder / f"{name}{packed}" for packed in COMPRESSIONS):
            if path.is_file():
                return [path]
    of_hub = {} if task.hub is None else task.hub.splits
    names = list(dict.fromkeys([of_hub.get(split, split), split, *_OTHER_NAMES.get(split, ())]))
    for name in names:
        whole = [path for path in sorted(folder.glob(f"{name}.*")) if path.name.endswith(endings(task))]
        if len(whole) > 1:
            found = ", ".join(path.name for path in whole)
            raise TaskError(f"task.path: more than one {split} split in {folder}: {found}; {_advice(split)}")
        parts = sorted(folder.glob(f"{name}-*-of-*.parquet"))
        if whole or parts:
            return whole or parts
    expected = [*task.files.get(split, ()), *(f"{name}.*" for name in names)]
    raise NoSplitError(
        f"task.path: no file of the {split} split in {folder}: expected {' or '.join(expected)}, there are "
        f"{_entries(folder)}; {_advice(split)}"
    )


def _advice(split: str) -> str:
    return f"name it in task.{split}" if split in ("train", "validation") else "rename it"


def _every(folder: Path, task: Task) -> list[Path]:
    usable = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(endings(task)))
    if not usable:
        raise TaskError(f"task.path: no file ending in {', '.join(endings(task))} in {folder}: {_entries(folder)}")
    return usable


def _entries(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "no files at all"


def _where_from(task: Task, path: str) -> str:
    """How a task's folder is come by."""
    command = command_that_makes(path)
    if command is not None:
        return f"make it with: {command}"
    folder = "give the folder of the task's files"
    return folder if task.hub is None else f"{folder}, or task.path=null for {task.hub.dataset} on the hub"


def _kind(path: Path) -> str:
    return f"the file {path}" if path.exists() else f"nothing at {path}"


def _is_path(dataset: str) -> bool:
    """Whether a dataset's name can be no hub id."""
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1
