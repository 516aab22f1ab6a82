"""Text to shards, in four steps, each of which does only what is missing.

    extract     units of the input -> pieces of cleaned text and hashes     (workers)
    duplicates  hashes -> positions of later occurrences, by unit; near ones too, if asked (workers)
    tokenizer   loaded, or trained on the pieces
    encode      pieces -> documents, train and validation shards            (workers)

Everything lies in `.work/` inside the output folder until it is complete; then the files move to their names and
manifest.json, written last, makes the folder a finished one. `.work/plan.json` says what the work is for: another input
starts it anew, another config is refused. Work is cut by the input and the config alone, so the number of workers
changes no byte.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import sources
from data_prep.array import ClusterArray, ClusterOptions
from data_prep.card import card
from data_prep.changes import changes_since_plan
from data_prep.clean import share_of
from data_prep.counts import counted, kept, losses_in_words, most_frequent, read_in_words
from data_prep.dedup import duplicates
from data_prep.documents import DataPrepError, Unit
from data_prep.done import Count
from data_prep.encode import Job, calls, encode
from data_prep.extract import extract, read_piece
from data_prep.jobs import end_earlier
from data_prep.near_duplicates import check_installed, near_duplicates
from data_prep.ray_pool import RayPool
from data_prep.tally import Reject, joined_rejects
from data_prep.tokenizer import build
from data_prep.work import CARD, REJECTS, exclusive, refuse_another_config, refuse_foreign_folder, start_or_continue
from data_prep.workers import Workers
from ofa.config import DataPrepConfig
from ofa.data.shards import SPLITS, Corpus, fingerprint_of, read_manifest, tokenizer_fingerprint, write_manifest
from ofa.files import empty_folder_beside, replace_folder, write_bytes, write_text

_CHARACTERS_PER_ENTRY = 2000
"""A vocabulary is trained on about this much text for each of its entries, drawn evenly from the corpus. More changes
rare entries only, and the trainer's memory and time grow with it."""

STEPS = ("extract", "duplicates", "tokenizer", "encode")
"""Of a preparation, in their order; a part of one stands behind it and a comma."""

Facts = dict[str, Any]
"""What a step's JSON file says."""

Pool = Workers | ClusterArray | RayPool

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done and what there is to do."""


def finished(config: DataPrepConfig, output: Path) -> Facts | None:
    """The manifest, if `output` is finished; None if it is not.

    Raises:
        DataPrepError: it was made with another config.
        ShardError: it is damaged, as far as its manifest and the sizes of its shards tell.
    """
    if not (output / "manifest.json").is_file():
        return None
    manifest = Corpus.open(output).manifest
    refuse_another_config(manifest.get("config", {}), config, output)
    return manifest


def remove_rest(output: Path) -> None:
    """Remove the work that a run left which was killed after it had finished `output`.

    Raises:
        DataPrepError: another run is at that, or the folder cannot be written.
        OSError: the disk.
    """
    work = output / ".work"
    if work.is_dir():
        with exclusive(output):
            end_earlier(work / "jobs")
            shutil.rmtree(work)


def prepare(
    config: DataPrepConfig,
    output: Path,
    workers: int,
    progress: Progress,
    cluster: ClusterOptions | None = None,
) -> Facts:
    """Make `output`, or finish what an interrupted run has begun there; returns the manifest.

    Args:
        config: What to make.
        output: On a disk that all nodes share, where there is a cluster.
        workers: Processes, or jobs of the cluster, side by side.
        progress: Told how far each step is.
        cluster: Does the work in jobs; None: processes of this machine do.

    Raises:
        DataPrepError: input that cannot be used or changes while it is read, another run at work in the folder, or a
            folder that holds something else.
        OSError: the disk.
    """
    work = output / ".work"
    refuse_foreign_folder(output)
    with exclusive(output):
        end_earlier(work / "jobs")
        units = sources.all_units(config)
        start_or_continue(work, config, units)
        with _pool(workers, work / "jobs", cluster) as pool:
            if config.clean.near_duplicates:
                check_installed()
            if config.tokenizer.init is not None:
                _tokenizer(work, config, [])  # refused before hours of extraction
            extracted = _extract(work, config, units, pool, progress)
            _check_unchanged(work, config)
            pieces = _numbered(extracted)
            if not pieces:
                raise DataPrepError(_nothing_left(config, extracted))
            progress("duplicates", 0, 1)
            _duplicates(work, config, len(units))
            progress("duplicates", 1, 1)
            if config.clean.near_duplicates:
                names = [[piece["name"] for piece in unit["pieces"]] for unit in extracted]
                report = functools.partial(progress, "duplicates, near")
                near_duplicates(work / "near_duplicates", work / "extract", names, pool, report)
            progress("tokenizer", 0, 1)
            facts = _tokenizer(work, config, pieces)
            progress("tokenizer", 1, 1)
            encoded = _encode(work, config, facts, pieces, pool, progress)
        manifest = _manifest(work, config, facts, extracted, encoded)
        rejects = joined_rejects((result["rejects"] for result in [*extracted, *encoded]), config.clean.reject_samples)
        _publish(work, output, encoded, manifest, rejects)
    return read_manifest(output)


def _pool(workers: int, jobs: Path, cluster: ClusterOptions | None) -> Pool:
    if cluster is None:
        return Workers(workers)
    return RayPool(workers) if cluster.cluster == "ray" else ClusterArray(workers, jobs, cluster)


# ---- the steps --------------------------------------------------------------------------------------------------


def _extract(work: Path, config: DataPrepConfig, units: list[Unit], pool: Pool, progress: Progress) -> list[Facts]:
    folder = work / "extract"
    folder.mkdir(exist_ok=True)
    todo = [(config, unit, number, folder) for number, unit in enumerate(units)]
    return _results(extract, todo, pool, functools.partial(progress, "extract"))


def _results(
    function: Callable[..., Facts], todo: list[tuple[Any, ...]], pool: Pool, report: Callable[[int, int], None]
) -> list[Facts]:
    """Of all calls, in their order."""
    results, count = [], Count([(function, call) for call in todo], report)
    for result in pool.map(function, todo):
        results.append(result)
        count.one_more()
    return results


def _duplicates(work: Path, config: DataPrepConfig, units: int) -> None:
    folder = work / "duplicates"
    if not config.clean.deduplicate or folder.is_dir():
        return
    partial = empty_folder_beside(folder)
    found = duplicates([work / "extract" / f"{number:05d}.hashes" for number in range(units)])
    for number, positions in enumerate(found):
        np.save(partial / f"{number:05d}.npy", positions)
    replace_folder(partial, folder)


def _tokenizer(work: Path, config: DataPrepConfig, pieces: list[Facts]) -> Facts:
    done = work / "tokenizer.json"
    if done.is_file():
        return json.loads(done.read_text())
    wanted = config.tokenizer.vocab_size * _CHARACTERS_PER_ENTRY
    share = min(1.0, wanted / max(1, sum(piece["characters"] for piece in pieces)))

    def texts() -> Iterator[str]:
        for piece in pieces:
            for document in read_piece(work / "extract" / f"{piece['name']}.jsonl.zst"):
                if share_of(f"vocabulary:{document.id}") < share:
                    yield document.text

    facts = build(work / "tokenizer", config.tokenizer, config.sequence_length, texts)
    facts["fingerprint"] = tokenizer_fingerprint(work / "tokenizer")
    write_bytes(done, json.dumps(facts).encode())
    return facts


def _encode(
    work: Path,
    config: DataPrepConfig,
    facts: Facts,
    pieces: list[Facts],
    pool: Pool,
    progress: Progress,
) -> list[Facts]:
    job = Job(
        config,
        pieces=work / "extract",
        duplicates=_folders_of_duplicates(work, config),
        tokenizer=work / "tokenizer",
        tokenizer_fingerprint=facts["fingerprint"],
        special=facts["special"],
        vocab_size=facts["vocab_size"],
        output=work / "encode",
        documents=sum(piece["documents"] for piece in pieces),
    )
    job.output.mkdir(exist_ok=True)
    todo = [(job, piece, copy) for piece, copy in calls(config, pieces)]
    return _results(encode, todo, pool, functools.partial(progress, "encode"))


def _manifest(
    work: Path,
    config: DataPrepConfig,
    facts: Facts,
    extracted: list[Facts],
    encoded: list[Facts],
) -> Facts:
    """What manifest.json will say; shards get consecutive names, as not every piece fills both halves."""
    splits: Facts = {}
    for split in SPLITS:
        entries = [result["shards"][split] for result in encoded if split in result["shards"]]
        splits[split] = {"shards": [{**one, "name": f"shard-{i:05d}.tar"} for i, one in enumerate(entries)]}
    counts = _counts([*extracted, *encoded])
    _check_halves(config, splits, counts)
    for split in SPLITS:
        shards = splits[split]["shards"]
        rows, tokens = sum(one["rows"] for one in shards), sum(one["tokens"] for one in shards)
        counts |= {f"{split}_rows": rows, f"{split}_tokens": tokens}
        counts[f"{split}_segments"] = sum(one["segments"] for one in shards)
    tokens, rows = (sum(counts[f"{split}_{what}"] for split in SPLITS) for what in ("tokens", "rows"))
    return {
        "mode": config.mode,
        "sequence_length": config.sequence_length,
        "vocab_size": facts["vocab_size"],
        "tokenizer": {"fingerprint": facts["fingerprint"], "special": facts["special"]},
        "splits": splits,
        "source": json.loads((work / "plan.json").read_text())["source"],
        "sources": _by_source(extracted, encoded),
        "statistics": {**dict(sorted(counts.items())), "fill": round(tokens / (rows * config.sequence_length), 6)},
        "config": config.model_dump(mode="json"),
    }


def _publish(work: Path, output: Path, results: list[Facts], manifest: Facts, rejects: list[Reject]) -> None:
    """Move everything to its name; the manifest comes last. May be interrupted and repeated at any point."""
    encoded = work / "encode"
    for split in SPLITS:
        (output / split).mkdir(exist_ok=True)
        names = [result["name"] for result in results if split in result["shards"]]
        for name, entry in zip(names, manifest["splits"][split]["shards"], strict=True):
            _move(encoded / f"{name}.{split}.tar", output / split / entry["name"])
    (output / "documents").mkdir(exist_ok=True)
    for number, piece in enumerate(result for result in results if result["copy"] == 0):
        _move(encoded / f"{piece['name']}.jsonl.zst", output / "documents" / f"{number:05d}.jsonl.zst")
    _move(work / "tokenizer", output / "tokenizer")
    write_text(output / REJECTS, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rejects))
    write_text(output / CARD, card({**manifest, "fingerprint": fingerprint_of(manifest)}, rejects))
    write_manifest(output, manifest)
    shutil.rmtree(work)


# ---- small parts ------------------------------------------------------------------------------------------------


def _numbered(extracted: list[Facts]) -> list[Facts]:
    """All pieces in order, each with the number of documents `before` it."""
    pieces, before = [], 0
    for unit in extracted:
        for piece in unit["pieces"]:
            pieces.append({**piece, "before": before})
            before += piece["documents"]
    return pieces


def _folders_of_duplicates(work: Path, config: DataPrepConfig) -> dict[str, Path]:
    """By the name of the count; exact ones first, which are near ones too."""
    found = {"dropped_duplicate": work / "duplicates"} if config.clean.deduplicate else {}
    return found | ({"dropped_near_duplicate": work / "near_duplicates"} if config.clean.near_duplicates else {})


def _by_source(extracted: list[Facts], encoded: list[Facts]) -> Facts:
    """By the name of a source its `counts`, its `tokens` in shards, and `lengths`: documents by the power of two that
    their tokens do not exceed, and `templates`: the most frequent that were not rendered."""
    found: Facts = {}
    for result in [*extracted, *encoded]:
        own = found.setdefault(result["source"], {"counts": Counter(), "lengths": Counter(), "tokens": 0})
        for what in ("counts", "lengths"):
            own[what].update(result.get(what, {}))
        if "templates" in result:
            own.setdefault("templates", Counter()).update(result["templates"])
        own["tokens"] += sum(shard["tokens"] for shard in result.get("shards", {}).values())
    for own in found.values():
        own |= {what: dict(sorted(own[what].items())) for what in ("counts", "lengths")}
        own |= {"templates": most_frequent(own["templates"])} if "templates" in own else {}
    return found


def _check_unchanged(work: Path, config: DataPrepConfig) -> None:
    changes = changes_since_plan(config, work)
    if changes is not None:
        raise DataPrepError(
            f"the source changed while it was read: {changes}; run the same command again, it reads everything anew"
        )


def _nothing_left(config: DataPrepConfig, extracted: list[Facts]) -> str:
    """How much of each source was read, what became of it, and of what nothing was read from what it is."""
    said = []
    for name, source in config.named_sources().items():
        counts = _counts([unit for unit in extracted if unit["source"] == name])
        words = [f"{name}: " * bool(name) + read_in_words([counts]), *losses_in_words(counts)]
        if not counts["documents_read"] and not losses_in_words(counts):
            words += [found] if (found := sources.described(source)) else []
        said.append(", ".join(words))
    return f"no document is left after reading and cleaning: {'; '.join(said)}"


def _check_halves(config: DataPrepConfig, splits: Facts, counts: Counter[str]) -> None:
    """Refuse a corpus of which a half is empty that is wanted."""
    empty = [split for split in SPLITS if not splits[split]["shards"] and (split == "train" or config.validation_share)]
    if not empty:
        return
    losses = losses_in_words(counts)
    also = f" ({', '.join(losses)})" if losses else ""
    raise DataPrepError(
        f"nothing went to {' and '.join(empty)}: {counted(kept(counts), 'document')} kept, "
        f"{counts['train_documents']:,} for train and {counts['validation_documents']:,} for validation, with "
        f"validation_share {config.validation_share:g}{also}; give more documents, or in another --output another "
        "validation_share (0: no validation) or seed, by which they are drawn anew; those of one group (chapters of a "
        "book, a group_field) stay together"
    )


def _counts(results: list[Facts]) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result["counts"])
    return total


def _move(source: Path, target: Path) -> None:
    if source.exists() or not target.exists():  # absent: an earlier, interrupted attempt has moved it
        os.replace(source, target)
