"""Near duplicates by MinHash, with datatrove's steps: of documents that share most of their runs of five words, the
first in the fixed order of units stays.

    signatures/bucket_BBB/UUUUU.minhash.sig   of each unit's documents     (a task a unit)
    matches/BBBBB_00.dups                     pairs with an equal bucket    (a task a bucket)
    clusters/UUUUUU.clusters                  document and cluster          (one task)

datatrove's executor class runs each task and marks it when it is done (`logs/*/completions`), so a run that was killed
does what is missing. Its own local executor is not used: it starts a manager process that outlives a killed run, and
workers that may still write when the next run begins. Which of a cluster stays is decided here: datatrove keeps any.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.documents import DataPrepError
from data_prep.done import Count, leaves
from data_prep.extract import read_piece
from ofa.files import empty_folder_beside, replace_folder


class Pool(Protocol):
    """Of processes, or of jobs."""

    def map(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call a function with each tuple of arguments."""
        ...


BUCKETS = 14
"""datatrove's: with 8 hashes each, documents that share 72 % of their runs are found with even odds, 80 % with 92 %."""

SLICE = 4096
"""Runs of words that are hashed at once."""


def check_installed() -> None:
    """Refuse before hours of extraction.

    Raises:
        DataPrepError: datatrove is not installed.
    """
    try:
        import datatrove  # noqa: F401, an extra
    except ImportError:
        raise DataPrepError(
            "clean.near_duplicates needs datatrove: pip install 'sparse-ofa[prep]', or set it to false"
        ) from None


def near_duplicates(
    folder: Path, pieces: Path, units: list[list[str]], pool: Pool, progress: Callable[[int, int], None]
) -> None:
    """Write `NNNNN.npy` of each unit into `folder`: int64 positions of documents that are not the first of a cluster.

    Args:
        folder: Gets its name when it is complete; the steps' files lie beside it and are removed then.
        pieces: Folder of the extracted pieces.
        units: Names of the pieces of each unit, in order.
        pool: Does the tasks.
        progress: Called with the tasks that are done and those there are.
    """
    if folder.is_dir():
        return
    work = folder.with_name("minhash")
    work.mkdir(exist_ok=True)
    allow_open_files(len(units))
    steps: list[tuple[Callable[..., None], list[tuple[Any, ...]]]] = [
        (_signatures, [(work, pieces, names, rank, len(units)) for rank, names in enumerate(units)]),
        (_matches, [(work, rank, len(units)) for rank in range(BUCKETS)]),
        (_clusters, [(work,)]),
    ]
    count = Count([(task, call) for task, calls in steps for call in calls], progress)
    for task, calls in steps:
        for _ in pool.map(task, calls):
            count.one_more()
    partial = empty_folder_beside(folder)
    for number, positions in enumerate(later_of_clusters(work / "clusters", len(units))):
        np.save(partial / f"{number:05d}.npy", positions)
    replace_folder(partial, folder)


def later_of_clusters(folder: Path, units: int) -> list[np.ndarray]:
    """Positions of the documents of each unit that are not the first of their cluster, ascending.

    Args:
        folder: Of datatrove's `.clusters` files: pairs of uint32, position and cluster.
        units: How many there are.
    """
    found, seen = [], set()
    for unit in range(units):
        path = folder / f"{unit:06d}.clusters"
        pairs = np.fromfile(path, "<u4").reshape(-1, 2) if path.is_file() else np.empty((0, 2), np.uint32)
        later = []
        for position, cluster in pairs[np.argsort(pairs[:, 0])].tolist():
            if cluster in seen:
                later.append(position)
            seen.add(cluster)
        found.append(np.array(later, np.int64))
    return found


# ---- tasks; each is marked when it is done ----------------------------------------------------------------------


def _mark(work: Path, step: str, rank: int) -> Path:
    """datatrove's, that a task is done."""
    return work / "logs" / step / "completions" / f"{rank:05d}"


@leaves(lambda work, pieces, names, rank, units: _mark(work, "signatures", rank))
def _signatures(work: Path, pieces: Path, names: list[str], rank: int, units: int) -> None:
    step = signature_step(work / "signatures")
    _run([_Documents(pieces, names), step], work / "logs" / "signatures", rank, units)


def signature_step(folder: Path) -> Any:
    """datatrove's, in a bounded memory: it hashes all runs of a document at once, two kilobytes each."""
    from datatrove.pipeline.dedup import MinhashDedupSignature

    class InSlices(MinhashDedupSignature):
        """The least hash of all is the least of the least of each slice."""

        def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
            whole = super().get_signature
            slices = [whole(shingles[start : start + SLICE]) for start in range(0, len(shingles), SLICE)]
            return np.min(np.array(slices, np.uint64), axis=0).tolist()

    return InSlices(str(folder), _config(), language=_words())  # pyright: ignore[reportArgumentType]


def allow_open_files(units: int) -> None:
    """datatrove reads the signatures of all units side by side: as many files as the system lets this process have.

    Raises:
        DataPrepError: those are too few.
    """
    needed = units + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise DataPrepError(
            f"clean.near_duplicates reads {units} files side by side, and a process may open {hard} here: have that "
            f"raised (ulimit -Hn {needed}), or choose a greater shard_characters; finished parts are kept"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@leaves(lambda work, rank, units: _mark(work, "matches", rank))
def _matches(work: Path, rank: int, units: int) -> None:
    from datatrove.pipeline.dedup import MinhashDedupBuckets

    allow_open_files(units)
    step = MinhashDedupBuckets(str(work / "signatures"), str(work / "matches"), config=_config(), lines_to_buffer=1000)
    _run([step], work / "logs" / "matches", rank, BUCKETS)


@leaves(lambda work: _mark(work, "clusters", 0))
def _clusters(work: Path) -> None:
    from datatrove.pipeline.dedup import MinhashDedupCluster

    step = MinhashDedupCluster(
        str(work / "matches"), str(work / "clusters"), config=_config(), save_cluster_id=True, lines_to_buffer=1000
    )
    _run([step], work / "logs" / "clusters", 0, 1)


class _Documents:
    """datatrove's first step: the documents of a unit, all of them, so that positions are those of the unit."""

    def __init__(self, pieces: Path, names: list[str]):
        self._pieces, self._names = pieces, names
        self.name, self.type = "pieces", "reader"

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        from datatrove.data import Document

        for name in self._names:
            for document in read_piece(self._pieces / f"{name}.jsonl.zst"):
                yield Document(text=document.text, id=document.id)


def _config() -> Any:
    """SHA-1 and not its default: xxhash 4 takes no strings, which datatrove 0.10 gives it."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    return MinhashConfig(num_buckets=BUCKETS, hash_config=HashConfig(hash_fc="sha1"))


def _words() -> Any:
    """A splitter at white space: datatrove has taken the punctuation out, and spaCy is not needed for this."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        """As datatrove wants it."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    return Words()


def _run(steps: list[Any], logs: Path, rank: int, tasks: int) -> None:
    """Run one task of a pipeline, unless it is marked as done."""
    from datatrove.executor.base import PipelineExecutor
    from loguru import logger

    class Executor(PipelineExecutor):
        """One task in this process."""

        def __init__(self) -> None:
            super().__init__(steps, logging_dir=str(logs))

        def run(self) -> None:
            self._run_for_rank(rank)

        @property
        def world_size(self) -> int:
            return tasks

        def get_distributed_env(self, node_rank: int = -1) -> Any:
            names = ("node_ips", "cpus_per_task", "mem_per_cpu", "gpus_on_node")
            return {"datatrove_executor": "LOCAL", **{f"datatrove_{name}": "-1" for name in names}}

    logger.disable("datatrove")  # its lines and bars would run through the progress
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        Executor().run()
