"""Sources `text` and `parquet`: files on disk.

`.txt` is one document; `.jsonl` one document a line; either may be compressed (`.gz`, `.zst`, `.xz`). Parquet files are
read in batches, never whole. A damaged file stops the preparation with its name and line: a corpus that silently lacks
its second half is worse than none.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.documents import DataPrepError, Document, Unit, batched_units
from data_prep.tally import Tally
from ofa.config import SourceConfig
from ofa.files import COMPRESSIONS, DAMAGE, open_bytes, open_text

_PACKED = "|".join(re.escape(ending) for ending in COMPRESSIONS if ending)
NAMES = {
    "text": (f".*\\.(?:txt|jsonl)(?:{_PACKED})?", "ending in .txt, .jsonl, also .gz, .zst, .xz"),
    "books": (f".*\\.txt(?:{_PACKED})?", "ending in .txt, also .gz, .zst, .xz"),
    "parquet": (r".*\.parquet", "ending in .parquet"),
    "mediawiki": (f".*\\.xml(?:-p\\d+p\\d+)?(?:{_PACKED}|\\.bz2)?", "ending in .xml, also .bz2, .gz, .zst, .xz"),
    "wikiextractor": (f".*wiki_\\d+(?:\\.json)?(?:{_PACKED}|\\.bz2)?", "named wiki_00, also .bz2, .gz, .zst, .xz"),
}
"""By kind: names of the files that are read, and how people say it."""
_BATCH_ROWS = 1024


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """One unit a file, small ones together."""
    return batched_units([(str(path), path.stat().st_size) for path in find_files(source)], shard_characters)


def versions(source: SourceConfig) -> dict[str, Any]:
    """Names and sizes of the files that are read."""
    files = find_files(source)
    name = names(files)
    return {"files": {name(path): path.stat().st_size for path in files}}


def times(source: SourceConfig) -> dict[str, int]:
    """When each file was written, in nanoseconds, under the names that `versions` gives."""
    files = find_files(source)
    name = names(files)
    return {name(path): path.stat().st_mtime_ns for path in files}


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The documents of a unit's files, in order."""
    name = names(find_files(source))
    for entry in unit.inputs:
        path = Path(entry)
        counts["files"] += 1
        try:
            yield from _read_file(source, path, name(path), counts)
        except DAMAGE as error:
            if source.on_damage == "refuse":
                raise DataPrepError(f"{path}: truncated or damaged ({error}); fetch it again or remove it") from error
            counts.reject("damaged_files", str(path), f"truncated or damaged ({error})")
        except UnicodeDecodeError as error:
            raise DataPrepError(
                f"{path}{_first_undecodable(path)}: not UTF-8 ({error.reason}); convert it first, or set "
                "source.on_damage=skip"
            ) from None


def find_files(source: SourceConfig) -> list[Path]:
    """Every file that `source.paths` means, sorted, once.

    Raises:
        DataPrepError: an entry matches nothing, or a file has a suffix that is not read.
    """
    pattern_of_names, in_words = NAMES[source.kind]
    is_wanted = re.compile(pattern_of_names).fullmatch
    found: set[Path] = set()
    for entry in source.paths:
        pattern = os.path.expanduser(entry)
        matches = [Path(match) for match in glob.glob(pattern, recursive=True)] or [Path(pattern)]
        files = [path for match in matches for path in (_below(match) if match.is_dir() else [match])]
        usable = [path for path in files if path.is_file() and is_wanted(path.name)]
        if not usable:
            raise DataPrepError(f"source.paths: {_nothing_usable(entry, matches, in_words, source.kind)}")
        found.update(path.resolve() for path in usable)
    return sorted(found)


def _nothing_usable(entry: str, matches: list[Path], in_words: str, kind: str) -> str:
    read = f"kind {kind} reads files {in_words}"
    if not any(path.exists() for path in matches):
        return f"there is no {entry} (working directory {Path.cwd()}); {read}"
    if len(matches) > 1:
        return f"none of the {len(matches)} files and folders that {entry} matches serves; {read}"
    return f"the folder {entry} has no such file; {read}" if matches[0].is_dir() else f"{entry} does not serve; {read}"


def _first_undecodable(path: Path) -> str:
    """The line and the byte of a file where UTF-8 ends; a reader's own error tells its place in a block."""
    before = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f", line {number}, byte {before + error.start}"
            before += len(line)
    return ""


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, without those of prepared data and its unfinished work: an output may lie in its source."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_prepared(Path(place, name))]
        yield from (Path(place, name) for name in names)


def _is_prepared(folder: Path) -> bool:
    return (folder / ".work").is_dir() or ((folder / "manifest.json").is_file() and (folder / "train").is_dir())


def document_of(source: SourceConfig, record: dict[str, Any], where: str, name: str) -> Document:
    """A document from a JSON object or a row of a table.

    Args:
        where: File and line, for errors.
        name: Serves as id where the record has none.

    Raises:
        DataPrepError: the text field is missing or no text.
    """
    text = record.get(source.text_field)
    if not isinstance(text, str):
        found = f"found {type(text).__name__}" if source.text_field in record else f"found only {', '.join(record)}"
        raise DataPrepError(f"{where}: no text in field {source.text_field!r}, {found}; set source.text_field")
    if source.group_field is not None and record.get(source.group_field) is None:
        raise DataPrepError(f"{where}: nothing in field {source.group_field!r}; set source.group_field")
    identifier = record.get(source.id_field) if source.id_field else None
    group = None if source.group_field is None else str(record[source.group_field])
    used = (source.text_field, source.id_field)
    meta = {key: value for key, value in record.items() if key not in used and isinstance(value, str | int | float)}
    if source.lines_are_paragraphs:
        text = text.replace("\n", "\n\n")
    return Document(name if identifier is None else str(identifier), text, meta, group)


def names(files: list[Path]) -> Callable[[Path], str]:
    """A function from path to a name that does not depend on where the corpus lies."""
    root = os.path.commonpath([path.parent for path in files])
    return lambda path: path.relative_to(root).as_posix()


def _read_file(source: SourceConfig, path: Path, name: str, counts: Tally) -> Iterator[Document]:
    if source.kind == "parquet":
        yield from _read_parquet(source, path, name)
        return
    with _open(source, path) as file:
        if ".jsonl" in path.suffixes:
            yield from _read_lines(source, file, path, name, counts)
        else:
            text = file.read()
            yield Document(name, text.replace("\n", "\n\n") if source.lines_are_paragraphs else text)


def _open(source: SourceConfig, path: Path) -> io.TextIOWrapper:
    """The text of a file; with `skip`, bytes that are no UTF-8 become a mark that cleaning counts and takes out."""
    if source.on_damage == "refuse":
        return open_text(path)
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="replace", newline="\n")


def _read_lines(
    source: SourceConfig, file: io.TextIOBase, path: Path, name: str, counts: Tally
) -> Iterator[Document]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield _of_line(source, line, f"{path}, line {number}", f"{name}:{number}")
        except DataPrepError as error:
            if source.on_damage == "refuse":
                raise
            counts.reject("damaged_lines", str(error), line)


def _of_line(source: SourceConfig, line: str, where: str, name: str) -> Document:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise DataPrepError(f"{where}: not JSON ({said}); repair the line") from None
    if not isinstance(record, dict):
        raise DataPrepError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return document_of(source, record, where, name)


def _read_parquet(source: SourceConfig, path: Path, name: str) -> Iterator[Document]:
    import pyarrow.parquet  # tens of megabytes in every worker, and no other source needs it

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for record in batch.to_pylist():
                    yield document_of(source, record, f"{path}, row {row}", f"{name}:{row}")
                    row += 1
    except (pyarrow.ArrowInvalid, OSError) as error:  # of the footer, and of a page
        raise DataPrepError(f"{path}: not a readable parquet file, after {row} rows ({error})") from error
