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
from typing import Any

import tokenizers

from data_prep import sources
from data_prep.documents import DataPrepError, Unit
from ofa.config import DataPrepConfig, differences
from ofa.data.shards import SPLITS
from ofa.files import explained_space, write_bytes

_CODE_VERSION = 1
"""Raised when the same input and config give other bytes, so that unfinished work of the old code is not mixed in."""

REMEDY = "free space or choose another --output, then run again: finished parts are kept"
"""What to do about a disk that cannot take the output."""

_PUBLISHED = (*SPLITS, "documents", "tokenizer")


def start_or_continue(work: Path, config: DataPrepConfig, units: list[Unit]) -> None:
    """Keep earlier work if it is for the same plan, else start with an empty folder."""
    plan = {
        "version": _CODE_VERSION,
        "config": config.model_dump(mode="json"),
        "source": {
            **sources.versions(config.source),
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
        },
        "units": [asdict(unit) for unit in units],
    }
    text = json.dumps(plan, indent=1)
    path = work / "plan.json"
    if path.is_file() and path.read_text() == text:
        return
    if any((work / "extract").glob("*.json")):  # hours of work, perhaps
        refuse_another_config(json.loads(path.read_text())["config"], config, work.parent)
    published = [folder for name in _PUBLISHED if (folder := work.parent / name).exists()]
    if published and not path.is_file():
        raise DataPrepError(
            f"{work.parent}: holds {published[0].name}/ but neither a manifest nor the work it came from; remove it or "
            "choose another --output"
        )
    for folder in published:
        shutil.rmtree(folder)
    fresh(work)
    write_bytes(path, text.encode())


def refuse_another_config(old: dict[str, Any], config: DataPrepConfig, output: Path) -> None:
    """Raise DataPrepError, naming the keys, unless `old` is the dump of `config`."""
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
        DataPrepError: another run is at work, or the folder cannot be made.
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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataPrepError(
                f"{output}: another run is preparing it; wait for it or choose another --output"
            ) from None
        try:
            with explained_space(output, "prepared data", REMEDY):
                yield
        except DataPrepError:
            if fresh_work and not any((output / ".work" / "extract").glob("[0-9]*.jsonl.zst")):
                shutil.rmtree(output / ".work", ignore_errors=True)
            raise
        finally:
            (output / ".lock").unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()
