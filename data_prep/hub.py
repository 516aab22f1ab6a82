"""Source `hub`: whatever `datasets.load_dataset` reads, from the hub or from a local folder.

A local folder is one in the hub's layout, or one that `Dataset.save_to_disk` wrote. A unit is a range of rows, or with
`streaming` one of the dataset's own shards. `datasets` is imported where it is used: it takes a second and no other
source needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.documents import DataPrepError, Document, Unit
from data_prep.files import document_of
from data_prep.tally import Tally
from ofa.config import SourceConfig
from ofa.hub import is_local, unreachable

_UNIT_ROWS = 50_000


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """Ranges `start:stop` of rows, or with streaming `index/count` of shards."""
    data = _load(source)
    if source.streaming:
        return [Unit((f"{index}/{data.num_shards}",), 0) for index in range(data.num_shards)]
    starts = range(0, len(data), _UNIT_ROWS)
    return [Unit((f"{start}:{min(start + _UNIT_ROWS, len(data))}",), 0) for start in starts]


def versions(source: SourceConfig) -> dict[str, Any]:
    """What identifies the dataset."""
    import datasets

    data = _load(source)
    found: dict[str, Any] = {"dataset": source.dataset, "subset": source.subset, "split": source.split}
    if not source.streaming:
        found["rows"] = len(data)
    revision = sorted(str(url).partition("@")[2].partition("/")[0] for url in data.info.download_checksums or ())
    return {**found, "revision": revision[0] if revision and revision[0] else None, "datasets": datasets.__version__}


def times(source: SourceConfig) -> dict[str, int]:
    """Nothing: rows have no times."""
    return {}


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The documents of a unit's rows, in order."""
    data, (entry,) = _load(source), unit.inputs
    if source.streaming:
        index, count = map(int, entry.split("/"))
        rows, first = data.shard(num_shards=count, index=index), 0
    else:
        first, stop = map(int, entry.split(":"))
        rows = data.select(range(first, stop))
    for number, record in enumerate(rows, start=first):
        name = f"{index}:{number}" if source.streaming else str(number)  # pyright: ignore
        yield document_of(source, record, f"dataset {source.dataset} {entry}, row {number}", name)


def _load(source: SourceConfig) -> Any:
    import datasets
    from datasets import config as settings

    datasets.disable_progress_bars()
    dataset = str(source.dataset)
    reason = None if is_local(dataset) else unreachable()
    if reason is not None:
        settings.HF_HUB_OFFLINE = True  # as the variable does: only the cache is asked
    try:
        if (Path(dataset) / "dataset_dict.json").is_file() or (Path(dataset) / "state.json").is_file():
            data = datasets.load_from_disk(dataset)
            return data[source.split] if isinstance(data, datasets.DatasetDict) else data
        return datasets.load_dataset(dataset, source.subset, split=source.split, streaming=source.streaming)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataPrepError(
            f"dataset {dataset} (subset {source.subset}, split {source.split}) cannot be loaded: {reason or error}; "
            "check the name, the split and the connection, or give a local folder as source.dataset"
        ) from error
