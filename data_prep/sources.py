"""The sources by kind: each has `units`, `read`, `versions` and `times`.

A new kind is one module with these four functions and one line here. Of several sources in one corpus, each has a name,
which stands before the ids and groups of its documents: equal ids of two sources are two documents.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_prep import books, docstrings, files, hub, mediawiki, wikiextractor
from data_prep.counts import counted, shown_bytes
from data_prep.documents import DataPrepError, Document, Unit
from data_prep.tally import Tally
from data_prep.wiki.files import beginning
from ofa.config import DataPrepConfig, SourceConfig

_KINDS: dict[str, Any] = {
    "docstrings": docstrings,
    "text": files,
    "parquet": files,
    "hub": hub,
    "mediawiki": mediawiki,
    "wikiextractor": wikiextractor,
    "books": books,
}


def all_units(config: DataPrepConfig) -> list[Unit]:
    """The input in a fixed order: of the first source, the second, ..."""
    all_: list[Unit] = []
    for name, source in config.named_sources().items():
        with named(name):
            all_ += [replace(unit, source=name) for unit in units(source, config.shard_characters)]
    return all_


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """A source in a fixed order, cut into units of about `shard_characters` where its files are smaller."""
    found = _KINDS[source.kind].units(source, shard_characters)
    if not found:
        raise DataPrepError(f"source {source.kind} is empty: there is nothing to prepare")
    return found


def read_unit(config: DataPrepConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """Documents of one unit in order, under ids of the whole corpus; what is skipped is added to `counts`."""
    source = config.named_sources()[unit.source]
    with named(unit.source):
        for document in read(source, unit, counts):
            if not unit.source:
                yield document
            else:
                group = None if document.group is None else f"{unit.source}/{document.group}"
                yield replace(document, id=f"{unit.source}/{document.id}", group=group)


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Keys of the config in errors as those of the source of this name."""
    try:
        yield
    except DataPrepError as error:
        if not name:
            raise
        raise DataPrepError(re.sub(r"\bsource\.(?=[a-z])", f"sources.{name}.", str(error))) from error


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """Documents of one unit in order; what is skipped is added to `counts`."""
    return _KINDS[source.kind].read(source, unit, counts)


def versions(source: SourceConfig) -> dict[str, Any]:
    """What the manifest says about the input."""
    licence = {} if source.licence is None else {"licence": source.licence}
    return {"kind": source.kind, **licence, **_KINDS[source.kind].versions(source)}


def all_versions(config: DataPrepConfig) -> dict[str, Any]:
    """`versions` of the source, or `sources` with those of each by name."""
    found = {}
    for name, source in config.named_sources().items():
        with named(name):
            found[name] = versions(source)
    return found[""] if config.source is not None else {"sources": found}


def versions_of(recorded: dict[str, Any], name: str) -> dict[str, Any]:
    """What `all_versions` said of one source when it was recorded; empty if nothing."""
    return recorded.get("sources", {}).get(name, {}) if name else recorded


def found(source: SourceConfig) -> str:
    """What there is of it, without reading it through; rows of a hub's dataset would have to be fetched.

    Raises:
        DataPrepError: there is nothing that can be read.
    """
    if source.kind == "hub":
        return f"dataset {source.dataset}, not looked at"
    if source.kind == "docstrings":
        return f"the standard library and {counted(len(docstrings.versions(source)) - 1, 'distribution')}"
    if source.kind == "mediawiki":
        mediawiki.check(source)
    sizes = [path.stat().st_size for path in files.find_files(source)]
    return f"{counted(len(sizes), 'file')} of {sum(sizes):,} bytes"


def described(source: SourceConfig) -> str:
    """What there is of a source of which nothing was read, and what its first file begins with."""
    if source.kind not in files.NAMES:
        return ""
    first = files.find_files(source)[0]
    return f"{found(source)}; {first} begins with {shown_bytes(beginning(first))}"


def times(source: SourceConfig) -> dict[str, int]:
    """When each file was written, for sources that are files; not in the manifest, as a copy of them has others."""
    return _KINDS[source.kind].times(source)


def all_times(config: DataPrepConfig) -> dict[str, int]:
    """`times` of all sources; with several, a file's name begins with its source's."""
    return {
        f"{name}/{file}" if name else file: time
        for name, source in config.named_sources().items()
        for file, time in times(source).items()
    }
