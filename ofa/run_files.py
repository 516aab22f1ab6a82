"""What can be told of a run folder from its files alone, without torch: whether it is held, finished, how far it is
saved. Commands that only look at runs start in a second through it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ofa import files
from ofa.config import TrainingConfig, differences, parse
from ofa.files import NoLocks, write_text

Otherwise = Callable[[Sequence[str]], str]
"""From the keys that differ (none: the data do) to what to do for other values or data than those of a run folder."""


_IN_USE = re.compile(r"(?:error: )?run folder .+ is in use by .+; stop that run or choose another --run-dir")


def in_use(folder: Path, holder: str) -> str:
    """What a start says that finds another one's lock on the run folder."""
    return f"run folder {folder} is in use by {holder}; stop that run or choose another --run-dir"


def is_in_use(error: str) -> bool:
    """Whether an error begins with what `in_use` gives: a few of its words in another say nothing of the run folder."""
    return _IN_USE.match(error) is not None


def elsewhere(changed: Sequence[str]) -> str:
    """Where a run folder is to go on."""
    return "choose another --run-dir"


class RunFolderError(ValueError):
    """A run folder that cannot be used, and what to do about it."""


def is_held(folder: Path) -> bool:
    """Whether a live process has the lock of a run folder.

    Raises:
        RunFolderError: its file system has no locks.
    """
    try:
        with (folder / "lock").open() as lock:
            return not try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def try_lock(lock: TextIO, kind: int) -> bool:
    """Whether the kernel gives a lock of this kind (fcntl's) on an open file now.

    Raises:
        RunFolderError: the file system has none.
    """
    try:
        return files.try_lock(lock, kind, "choose a run folder elsewhere")
    except NoLocks as error:
        raise RunFolderError(str(error)) from None


def is_finished(folder: Path) -> bool:
    """Whether a run has written its result, and the model that it exported is all there."""
    recipe = folder / "model" / "recipe.json"
    if not ((folder / "result.json").is_file() and recipe.is_file()):
        return False
    return all((folder / "model" / name).is_file() for name in read_json(recipe).get("files", ["unknown"]))


def read_record(folder: Path) -> dict[str, Any]:
    """What a run wrote down as it began: its config.json.

    Raises:
        RunFolderError: it is missing, damaged, or another config.json.
    """
    path = folder / "config.json"
    found = read_json(path)
    missing = {"config", "data_fingerprint", "versions"} - found.keys()
    if missing:
        raise RunFolderError(f"{path} is no run's record: it lacks {', '.join(sorted(missing))}")
    return found


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that `--resume DIR` means: DIR, or that among whose checkpoints the folder DIR stands; None
    where it stands elsewhere."""
    if (checkpoint / "checkpoints").is_dir():
        return checkpoint
    around = checkpoint.resolve().parent
    return around.parent if around.name == "checkpoints" else None


def check_config(folder: Path, config: TrainingConfig, otherwise: Otherwise = elsewhere) -> dict[str, Any]:
    """Refuse to continue a run with another config; returns its record.

    Args:
        folder: of the run.
        config: with which it is to go on.
        otherwise: what to do for the new values.

    Raises:
        RunFolderError: naming the keys that differ.
    """
    record = read_record(folder)
    old = parse(type(config), record["config"], origin=str(folder / "config.json"))
    changed = differences(old.decisive(), config.decisive())
    if changed:
        raise RunFolderError(
            f"{folder} was started with another config: {'; '.join(changed)}. "
            f"Continue with the old values, or {otherwise(changed)}"
        )
    return record


def check_resume(folder: Path, resume: str) -> None:
    """Refuse a folder that holds a run where none is to be continued.

    Args:
        folder: of the run.
        resume: the value of --resume.

    Raises:
        RunFolderError: it is `never`, and there is one.
    """
    if resume == "never" and (folder / "config.json").is_file():
        raise RunFolderError(f"{folder} holds a run and --resume is never; choose another --run-dir, or remove it")


def saved_step(folder: Path) -> int:
    """Updates that the newest checkpoint of a run holds; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    return 0


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the run folder.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"{path} is missing: this is no run folder, or its run has not come that far") from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: {error}; restore it from a copy, or start another run") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds no JSON object; restore it from a copy")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def json_lines(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file that is written a line at a time, or of its end; what a kill, or a beginning in the
    middle, has broken is left out."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def read_tail(path: Path, most: int) -> str:
    """At most that many bytes from the end of a text file that may be growing; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - most))
            return file.read(most).decode(errors="replace")
    except FileNotFoundError:
        return ""
