"""Second pass: one piece -> its documents, a train shard and a validation shard.

A document's half is a hash of its group; sentences are encoded many at a time; segments are built and packed per half,
and the rows written in a random order, since packing sorts them by length. The piece's JSON file is written last.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clean import share_of
from data_prep.documents import Document
from data_prep.done import leaves
from data_prep.extract import CompressedLines, read_piece
from data_prep.pack import pack
from data_prep.segments import Encoded, Frame, PairBuilder, sentence_segments
from data_prep.sentences import splitter
from data_prep.tally import Tally
from data_prep.token_ids import TokenIds
from data_prep.tokenizer import encoder
from data_prep.work import new_files
from ofa.config import DataPrepConfig
from ofa.data.shards import SPLITS, Segment, ShardWriter, token_dtype

_BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class Job:
    """What is the same for all pieces."""

    config: DataPrepConfig
    pieces: Path
    """Folder of the extracted pieces."""
    duplicates: dict[str, Path]
    """Folders of the positions of duplicates, by unit; by the name of the count of what is dropped for them."""
    tokenizer: Path
    tokenizer_fingerprint: str
    special: dict[str, int]
    vocab_size: int
    output: Path
    documents: int = 0
    """Of the corpus, before duplicates are dropped."""


@leaves(lambda job, piece, copy=0: job.output / f"{_name(piece, copy)}.json")
def encode(job: Job, piece: dict[str, Any], copy: int = 0) -> dict[str, Any]:
    """Encode and pack one piece; returns what its JSON file says.

    A source whose weight is above 1 has further copies of a piece: the documents whose share of the weight reaches so
    far, for training only, with other pairs, lengths and order than in the first.

    Returns:
        `name`; `source`; `copy`; `shards`: the manifest's entry by half, absent if the half is empty; `counts`:
        documents, tokens, pairs, ...; `lengths`: see `length_bin`.
    """
    done = job.output / f"{_name(piece, copy)}.json"
    if done.is_file():
        return json.loads(done.read_text())
    with new_files(done) as building:
        result = _encode_into(building, job, piece, copy)
        (building / done.name).write_text(json.dumps(result))
    return result


def _encode_into(folder: Path, job: Job, piece: dict[str, Any], copy: int) -> dict[str, Any]:
    """Write what `encode` leaves, but for its JSON file; returns what that says."""
    name = _name(piece, copy)
    counts = Tally(sample=job.config.clean.reject_samples)
    lengths: Counter[str] = Counter()
    halves: dict[str, list[Encoded]] = {split: [] for split in SPLITS}
    with CompressedLines(folder / f"{name}.jsonl.zst") if copy == 0 else contextlib.nullcontext() as file:
        documents = _kept(job, piece, file, counts) if file is not None else _copied(job, piece, copy)
        for split, document in _encoded(job, documents, counts):
            halves[split].append(document)
            lengths[length_bin(len(document.tokens))] += 1
    shards = {split: _write_shard(job, folder / f"{name}.{split}.tar", halves.pop(split), counts) for split in SPLITS}
    return {
        "name": name,
        "source": piece["source"],
        "copy": copy,
        "shards": {split: entry for split, entry in shards.items() if entry},
        "counts": dict(counts) if copy == 0 else {f"copied_{what}": number for what, number in counts.items()},
        "lengths": dict(lengths) if copy == 0 else {},
        "rejects": counts.rejects,
    }


def _name(piece: dict[str, Any], copy: int) -> str:
    return piece["name"] if copy == 0 else f"{piece['name']}+{copy}"


def calls(config: DataPrepConfig, pieces: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """What `encode` is called with: each piece, and its copies behind it."""
    weights = {name: source.weight for name, source in config.named_sources().items()}
    return [(piece, copy) for piece in pieces for copy in range(max(1, math.ceil(weights[piece["source"]])))]


def length_bin(tokens: int) -> str:
    """The power of two that a document's tokens do not exceed, as a key: `512` for 257 to 512."""
    return str(1 << max(0, tokens - 1).bit_length())


def _documents(job: Job, piece: dict[str, Any], counts: Tally) -> Iterator[tuple[str, Document]]:
    """Half and document of those that are no duplicates."""
    dropped = {reason: _positions(folder, piece) for reason, folder in job.duplicates.items()}
    for position, document in enumerate(read_piece(job.pieces / f"{piece['name']}.jsonl.zst")):
        reason = next((reason for reason, positions in dropped.items() if position in positions), None)
        if reason is not None:
            counts.reject(reason, document.id, document.text)
            continue
        yield split_of(document, job.config, piece.get("before", 0) + position, job.documents), document


def _positions(folder: Path, piece: dict[str, Any]) -> set[int]:
    unit = piece["name"].split("-")[0]
    return set((np.load(folder / f"{unit}.npy") - piece["first"]).tolist())


def _kept(job: Job, piece: dict[str, Any], file: CompressedLines, counts: Tally) -> Iterator[tuple[str, str]]:
    """Half and text of the documents that go into the corpus; they go to the documents' file on the way."""
    weight = job.config.named_sources()[piece["source"]].weight
    for split, document in _documents(job, piece, counts):
        if split == "train" and copies_of(document, weight) == 0:
            counts["dropped_by_weight"] += 1
            continue
        file.add({"id": document.id, "text": document.text, "meta": document.meta, "split": split})
        counts[f"{split}_documents"] += 1
        counts["characters"] += len(document.text)
        yield split, document.text


def _copied(job: Job, piece: dict[str, Any], copy: int) -> Iterator[tuple[str, str]]:
    """As `_kept`, for a further copy."""
    weight = job.config.named_sources()[piece["source"]].weight
    for split, document in _documents(job, piece, Tally()):
        if split == "train" and copies_of(document, weight) > copy:
            yield split, document.text


def copies_of(document: Document, weight: float) -> int:
    """How often a document is in the training half: `weight` on average, always its whole part."""
    whole = math.floor(weight)
    return whole + (share_of(f"weight:{document.id}") < weight - whole)


def split_of(document: Document, config: DataPrepConfig, position: int = 0, documents: int = 0) -> str:
    """The half of the corpus that the document's group belongs to.

    Args:
        document: With its group.
        config: Says how.
        position: Of the document among all of the corpus, for `prefix`.
        documents: Of the corpus, before duplicates are dropped, for `prefix`.
    """
    if config.split == "prefix":
        return "validation" if position < round(config.validation_share * documents) else "train"
    group = document.id if document.group is None else document.group
    return "validation" if share_of(f"{config.seed}:{group}") < config.validation_share else "train"


def _encoded(job: Job, documents: Iterator[tuple[str, str]], counts: Counter[str]) -> Iterator[tuple[str, Encoded]]:
    """Half and tokens of each document that has any."""
    token_ids, split_sentences = _token_ids(job), splitter(job.config.sentences)
    for batch in _batches(documents, split_sentences):
        tokens, ends = token_ids.of([sentence for _, found in batch for sentence in found])
        first = begin = 0
        for split, found in batch:
            own = ends[first : first + len(found)] - begin
            first += len(found)
            own_ends = [end for end in dict.fromkeys(own.tolist()) if end]  # a sentence may have no token
            counts["sentences"] += len(own_ends)
            if own_ends:
                yield split, Encoded(tokens[begin : begin + own_ends[-1]], own_ends)
                begin += own_ends[-1]
            else:
                counts["documents_without_tokens"] += 1


def _token_ids(job: Job) -> TokenIds:
    return _kept_token_ids(job.tokenizer, job.tokenizer_fingerprint, job.vocab_size)


@functools.lru_cache(maxsize=1)
def _kept_token_ids(folder: Path, fingerprint: str, vocab_size: int) -> TokenIds:
    """Kept from piece to piece, with the words that it knows."""
    return TokenIds(encoder(folder), token_dtype(vocab_size))


def _batches(
    documents: Iterator[tuple[str, str]], split_sentences: Callable[[str], list[str]]
) -> Iterator[list[tuple[str, list[str]]]]:
    batch, characters = [], 0
    for split, text in documents:
        batch.append((split, split_sentences(text)))
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write_shard(job: Job, path: Path, documents: list[Encoded], counts: Counter[str]) -> dict[str, Any] | None:
    if not documents:
        return None
    name = path.stem
    segments = _segments(job, name, documents, counts)
    if not segments:
        return None
    rows = pack([len(segment.tokens) for segment in segments], job.config.sequence_length)
    random.Random(f"{job.config.seed}:{name}:rows").shuffle(rows)
    writer = ShardWriter(
        path,
        token_dtype(job.vocab_size),
        job.config.record_tokens,
        special=job.special.values(),
        pairs=job.config.mode == "segment_pair_nsp",
    )
    try:
        for row in rows:
            writer.add_row([segments[index] for index in row])
        return writer.close()
    except BaseException:
        writer.abandon()
        raise


def _segments(job: Job, name: str, documents: list[Encoded], counts: Counter[str]) -> list[Segment]:
    config = job.config
    frame = Frame(config.sequence_length, job.special["cls"], job.special["sep"])
    if config.mode == "doc_sentences":
        cut = config.overflow == "cut"
        return [segment for document in documents for segment in sentence_segments(document, frame, cut=cut)]
    builder = PairBuilder(documents, frame, config.short_sequence_probability, f"{config.seed}:{name}")
    segments = [segment for index in range(len(documents)) for segment in builder.segments(index)]
    counts.update(builder.counts)
    return segments
