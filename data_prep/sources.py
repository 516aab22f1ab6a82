"""The sources by name: each has `units`, `read`, `versions` and `times`.

A new kind is one module with these four functions and one line here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from data_prep import docstrings, files, hub
from data_prep.documents import DataPrepError, Document, Unit
from ofa.config import SourceConfig

_KINDS: dict[str, Any] = {"docstrings": docstrings, "text": files, "parquet": files, "hub": hub}


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """The input in a fixed order, cut into units of about `shard_characters` where its files are smaller."""
    found = _KINDS[source.kind].units(source, shard_characters)
    if not found:
        raise DataPrepError(f"source {source.kind} is empty: there is nothing to prepare")
    return found


def read(source: SourceConfig, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
    """Documents of one unit in order; what is skipped is added to `counts`."""
    return _KINDS[source.kind].read(source, unit, counts)


def versions(source: SourceConfig) -> dict[str, Any]:
    """What the manifest says about the input."""
    return {"kind": source.kind, **_KINDS[source.kind].versions(source)}


def times(source: SourceConfig) -> dict[str, int]:
    """When each file was written, for sources that are files; not in the manifest, as a copy of them has others."""
    return _KINDS[source.kind].times(source)
