"""The work folder inside an output folder: what it is for, who is in it, and when it starts anew."""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import tokenizers

from data_prep import sources
from data_prep.changes import read_plan
from data_prep.documents import DataPrepError, Unit
from data_prep.jobs import NOTE
from ofa.config import ConfigError, DataPrepConfig, differences, parse
from ofa.data.shards import SPLITS
from ofa.files import (
    NoLocks,
    explained_space,
    flush_file,
    flush_folder,
    own_folder_beside,
    remove_left,
    try_lock,
    write_bytes,
)
from ofa.slurm.errors import SubmitError

_CODE_VERSION = 6
"""Raised when the same input and config give other bytes, so that unfinished work of the old code is not mixed in."""

REMEDY = "free space or choose another --output, then run again: finished parts are kept"
"""What to do about a disk that cannot take the output."""

_NAMED = 5
"""Entries of a folder that an error names."""

REJECTS = "rejects.jsonl"
"""A sample of the documents that were dropped, by reason."""

CARD = "card.html"
"""What went in, for people."""

_PUBLISHED = (*SPLITS, "documents", "tokenizer")

_STEPS = ("extract", "duplicates", "minhash", "near_duplicates", "tokenizer", "encode")
_WORK = ("plan.json", "tokenizer.json", "jobs", *_STEPS)
"""What stands in a work folder."""


def start_or_continue(work: Path, config: DataPrepConfig, units: list[Unit]) -> None:
    """Keep earlier work if it is for the same plan, else start with an empty folder."""
    plan = {
        "version": _CODE_VERSION,
        "config": config.model_dump(mode="json"),
        "source": {
            **sources.all_versions(config),
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
        },
        "units": [asdict(unit) for unit in units],
        "times": sources.all_times(config),
    }
    text = json.dumps(plan, indent=1)
    path = work / "plan.json"
    if path.is_file() and path.read_text() == text:
        _remove_unfinished(work)
        return
    old = read_plan(work)
    if old is not None and any((work / "extract").glob("*.json")):  # hours of work, perhaps
        refuse_another_config(old["config"], config, work.parent)
    for published in (work.parent / name for name in _PUBLISHED):
        if published.exists():
            shutil.rmtree(published)
    for name in (REJECTS, CARD):
        (work.parent / name).unlink(missing_ok=True)
    fresh(work)
    write_bytes(path, text.encode())


@contextlib.contextmanager
def new_files(done: Path) -> Iterator[Path]:
    """A hidden folder of this writer alone, for the files of one call; at its end they move beside `done`, which is one
    of them, comes last and so says that the others are whole.

    Two writers of the same files, where a job was thought to be gone, harm each other in nothing.
    """
    with own_folder_beside(done) as building:
        yield building
        files = sorted(path for path in building.iterdir() if path.name != done.name)
        for path in (*files, building / done.name):
            flush_file(path)
        for path in files:
            path.replace(done.with_name(path.name))
        flush_folder(done.parent)
        (building / done.name).replace(done)
        flush_folder(done.parent)


def _remove_unfinished(work: Path) -> None:
    """What killed writers of `new_files` have left."""
    for step in _STEPS:
        remove_left(work / step)


def refuse_foreign_folder(output: Path) -> None:
    """Leave a folder alone that holds anything but unfinished work of this program; an empty one serves.

    Raises:
        DataPrepError: what it holds, and what to do.
    """
    in_the_way = next((path for path in (output, *output.parents) if path.exists() and not path.is_dir()), None)
    if in_the_way is not None:
        raise DataPrepError(f"{output} cannot be made: {in_the_way} is a file; choose another --output")
    if not output.is_dir() or read_plan(output / ".work") is not None:
        return
    foreign = sorted(path for path in output.iterdir() if path.name != ".lock" and not _is_rest_of_work(path))
    if foreign:
        names = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in foreign[:_NAMED])
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        raise DataPrepError(
            f"{output}: holds {names}{more}, but neither prepared data nor the unfinished work of a preparation; "
            "choose another --output, one that is empty or not there yet, or move away what it holds"
        )


def _is_rest_of_work(path: Path) -> bool:
    """Whether it is a work folder without a plan: its run was killed before it wrote one, or while removing it."""
    if path.name != ".work" or not path.is_dir():
        return False
    return all(inside.name in _WORK or inside.name.startswith(".writing-") for inside in path.iterdir())


def refuse_another_config(old: dict[str, Any], config: DataPrepConfig, output: Path) -> None:
    """Raise DataPrepError, naming the keys, unless `old` is the dump of `config`; what it lacks is the default."""
    with contextlib.suppress(ConfigError):
        old = parse(DataPrepConfig, old, origin=str(output)).model_dump(mode="json")
    changed = differences(old, config.model_dump(mode="json"))
    if changed:
        raise DataPrepError(
            f"{output}: belongs to another config: {', '.join(changed)}; choose another --output, or remove the folder "
            "to make it anew"
        )


def fresh(folder: Path) -> Path:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Make the folder, and let one run at a time work in it; the lock goes with the process.

    Input that is refused before any of it was finished leaves no trace.

    Raises:
        DataPrepError: another run is at work, the folder cannot be made, or its file system has no locks.
        DiskFull: from inside, with the folder.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    fresh_work = not (output / ".work").exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / ".lock").open("w")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DataPrepError(f"{output} cannot be made: {error.strerror}; choose another --output") from None
    with file:
        _lock(file, output, made)
        try:
            with explained_space(output, "prepared data", REMEDY):
                yield
        except (DataPrepError, SubmitError):
            work = output / ".work"
            has_pieces = any((work / "extract").glob("[0-9]*.jsonl.zst"))
            if fresh_work and not has_pieces and not (work / "jobs" / NOTE).exists():  # else an error names a log there
                shutil.rmtree(work, ignore_errors=True)
            raise
        finally:
            _leave(output, made)


def _lock(file: TextIO, output: Path, made: list[Path]) -> None:
    try:
        got = try_lock(file, fcntl.LOCK_EX, "choose another --output")
    except NoLocks as error:
        _leave(output, made)
        raise DataPrepError(str(error)) from None
    if not got:
        raise DataPrepError(f"{output}: another run is preparing it; wait for it or choose another --output")


def _leave(output: Path, made: list[Path]) -> None:
    """Remove what was made to get in, but for folders that hold something now."""
    (output / ".lock").unlink(missing_ok=True)
    for folder in made:
        with contextlib.suppress(OSError):  # it does
            folder.rmdir()
