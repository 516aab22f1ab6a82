"""Whether a source is still the one that a folder was prepared from, or its unfinished work was begun from.

In: what manifest.json or `.work/plan.json` says about the source, and the source now. Out: what has changed, in words.

Files are held against each other by name and size. A sum of their bytes would also find a change that keeps the size,
but reading a corpus takes minutes where listing it takes none; a file that was written after the data was prepared is
mentioned instead. Unfinished work knows the files' times of writing and trusts none that has changed.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep import sources
from data_prep.counts import counted
from data_prep.documents import DataPrepError
from ofa.config import DataPrepConfig, SourceConfig, differences

Sizes = dict[str, int]
"""Bytes of each file, by its name below the folder that all files of the source share."""


class Comparison(NamedTuple):
    """What is said about a source that serves."""

    result: str
    """How it was compared; empty if there was nothing to compare."""
    note: str | None
    """What the user should know."""


def compare_source(config: DataPrepConfig, manifest: dict[str, Any], output: Path) -> Comparison:
    """Hold the source against what a finished folder was prepared from.

    Versions of installed packages that have changed are noted only: nobody's text is missing then. A source that
    cannot be looked at any more (files moved away) leaves the prepared data as good as it was; that is noted too.

    Raises:
        DataPrepError: files were added or removed, or have another size.
    """
    found = [
        _compare_one(name, source, sources.versions_of(manifest.get("source", {}), name), output)
        for name, source in config.named_sources().items()
    ]
    results, notes = ([one[what] for one in found if one[what]] for what in (0, 1))
    return Comparison("; ".join(map(str, results)), "; ".join(map(str, notes)) or None)


def _compare_one(name: str, source: SourceConfig, old: dict[str, Any], output: Path) -> Comparison:
    which = f"source {name}" if name else "the source"
    if source.kind == "hub":
        return Comparison("the dataset was not looked at again", None)
    try:
        now = sources.versions(source)
        times = sources.times(source)
    except (DataPrepError, OSError) as error:
        return Comparison("", f"{which} cannot be compared with what the data was prepared from: {error}")
    if "files" not in now:
        changed = differences({key: old.get(key) for key in now}, now)
        return Comparison("", _versions_note(which, changed, output) if changed else None)
    if "files" not in old:
        return Comparison("", None)
    changes = file_changes(old["files"], now["files"])
    if changes is not None:
        raise DataPrepError(
            f"{output}: prepared from other files than {which} holds now: {changes}; to use them choose another "
            f"--output, or remove {output} and run again"
        )
    prepared = (output / "manifest.json").stat().st_mtime_ns
    later = sorted(file for file, time in times.items() if time > prepared)
    result = f"{which} holds the same {counted(len(times), 'file')}, by name and size; their content was not compared"
    return Comparison(result, _later_note(later, output) if later else None)


def changes_since_plan(config: DataPrepConfig, work: Path) -> str | None:
    """What has happened to the sources' files since the plan of a work folder was written, if anything.

    None too where there is no plan, or one for another config, or no source is files.

    Raises:
        DataPrepError: a source cannot be read any more.
    """
    plan, times = read_plan(work), sources.all_times(config)
    if plan is None or not times or plan["config"] != config.model_dump(mode="json"):
        return None
    for name, source in config.named_sources().items():
        old = sources.versions_of(plan["source"], name).get("files", {})
        changes = file_changes(old, sources.versions(source).get("files", {}))
        if changes is not None:
            return f"{name}: {changes}" if name else changes
    before = plan.get("times", {})
    written = sorted(name for name, time in times.items() if time != before.get(name, time))
    return f"{len(written)} written anew ({_first(written)})" if written else None


def read_plan(work: Path) -> dict[str, Any] | None:
    """The plan of a work folder; None if there is none that this program wrote."""
    try:
        plan = json.loads((work / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) and {"version", "config", "source", "units"} <= plan.keys() else None


def file_changes(old: Sizes, now: Sizes) -> str | None:
    """How two lists of files differ, in words that name the first of each kind; None if they do not."""
    if old == now:
        return None
    old, now = _below_one_folder(old, now)
    added, removed = sorted(now.keys() - old.keys()), sorted(old.keys() - now.keys())
    resized = sorted(name for name in old.keys() & now.keys() if old[name] != now[name])
    kinds = ((added, "added"), (removed, "removed"))
    found = [f"{len(names)} {what} ({_first(names)})" for names, what in kinds if names]
    if resized:
        sizes = f"{old[resized[0]]} -> {now[resized[0]]} bytes"
        found.append(f"{len(resized)} of another size ({resized[0]}, {sizes}{', ...' if len(resized) > 1 else ''})")
    return ", ".join(found)


def _below_one_folder(old: Sizes, now: Sizes) -> tuple[Sizes, Sizes]:
    """Both lists with names below the same folder.

    Names begin below the folder that all files share, and one file more may move it up: `1.txt` in `en/` becomes
    `en/1.txt` beside `de/1.txt`. Of the folders that either list may have begun at, the one is taken that makes the
    most files the same.
    """
    pairs = [(old, now)]
    pairs += [(_moved(old, folder), now) for folder in _folders(now)]
    pairs += [(old, _moved(now, folder)) for folder in _folders(old)]
    return max(pairs, key=lambda pair: (len(pair[0].items() & pair[1].items()), len(pair[0].keys() & pair[1].keys())))


def _moved(sizes: Sizes, folder: str) -> Sizes:
    return {f"{folder}/{name}": size for name, size in sizes.items()}


def _folders(sizes: Sizes) -> list[str]:
    """Folders that hold a file, at any depth."""
    return sorted({str(folder) for name in sizes for folder in PurePosixPath(name).parents} - {"."})


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}, ..."


def _versions_note(which: str, changed: list[str], output: Path) -> str:
    return (
        f"{which} has changed since then ({'; '.join(changed[:5])}); to use it, choose another --output or remove "
        f"{output}"
    )


def _later_note(names: list[str], output: Path) -> str:
    return (
        f"files written after the data was prepared: {len(names)} ({_first(names)}); if their text has changed, choose "
        f"another --output, or remove {output} and run again"
    )
