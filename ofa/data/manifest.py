"""manifest.json: what a prepared folder holds, checked field by field and against itself.

In: what `data_prep` counted (`write_manifest`). Out: a dict that `Corpus` can rely on (`read_manifest`), or an error
that names the field. Damage inside the file shows in its `checksum`; folders made before there was one are held against
their fingerprint and the sums of their parts alone. What the shards hold is the reader's to check (`ofa.data.shards`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import shlex
import zlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from ofa.config import command_that_makes
from ofa.files import write_text

FORMAT = "sparse-ofa-shards"
VERSION = 1
SPLITS = ("train", "validation")

COUNT_COLUMNS = ("tokens", "maskable", "segments")
"""Columns of a shard's per-row counts."""

TAR_END = 1024
"""Bytes of zeros with which a tar file ends."""

Count = Annotated[StrictInt, Field(ge=0, lt=1 << 62)]
Digest = Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


class ShardError(ValueError):
    """Shards that cannot be used: the file, what was found, what was expected, what to do."""


class _Part(BaseModel):
    """An object of the manifest; keys that are not named serve people, not the reader."""

    model_config = ConfigDict(extra="allow")


class _Record(_Part):
    offset: Count
    size: Count
    rows: Annotated[Count, Field(gt=0)]
    crc32: Annotated[Count, Field(lt=1 << 32)]


class _Shard(_Part):
    name: Annotated[StrictStr, Field(pattern=r"^[\w-]+\.tar$")]
    rows: Count
    tokens: Count
    segments: Count
    bytes: Count
    sha256: Digest
    counts: StrictStr
    records: list[_Record]


class _Split(_Part):
    shards: list[_Shard]


class _Tokenizer(_Part):
    fingerprint: StrictStr
    special: dict[StrictStr, Count]


class _Manifest(_Part):
    mode: StrictStr
    sequence_length: Annotated[Count, Field(gt=0)]
    vocab_size: Annotated[Count, Field(gt=0)]
    tokenizer: _Tokenizer
    splits: dict[StrictStr, _Split]
    fingerprint: Digest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        ShardError: it is absent, not JSON, of another format or version, or contradicts itself.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        where = "" if folder.is_absolute() else f" (working directory {Path.cwd()})"
        raise ShardError(f"{folder}: no such folder{where}; {remedy(folder)}")
    if not path.is_file():
        raise ShardError(f"{folder}: no manifest.json, so its preparation is not finished; {remedy(folder)}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON ({error}); {repair(folder)}") from None
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ShardError(
            f"{path}: expected {FORMAT} version {VERSION}, found {found}; name another folder, or prepare the data in "
            "a new one: python -m data_prep --config <config> --output DIR"
        )
    problem = _problem(manifest)
    if problem is not None:
        raise ShardError(f"{path}: damaged ({problem}); {repair(folder)}")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json, with format, version, fingerprint and checksum added; it makes the folder a finished one."""
    complete = {"format": FORMAT, "version": VERSION, **manifest, "fingerprint": fingerprint_of(manifest)}
    complete["checksum"] = checksum_of(complete)
    write_text(folder / "manifest.json", json.dumps(complete, indent=1, ensure_ascii=True) + "\n")


def fingerprint_of(manifest: dict[str, Any]) -> str:
    """sha256 over what decides the training input: mode, length, tokenizer, and the shards' sums in order."""
    decisive = {
        "mode": manifest["mode"],
        "sequence_length": manifest["sequence_length"],
        "vocab_size": manifest["vocab_size"],
        "tokenizer": manifest["tokenizer"],
        "splits": {name: [one["sha256"] for one in manifest["splits"][name]["shards"]] for name in SPLITS},
    }
    return _digest(decisive)


def checksum_of(manifest: dict[str, Any]) -> str:
    """sha256 over every field but the checksum itself."""
    return _digest({key: value for key, value in manifest.items() if key != "checksum"})


def decode_counts(shard: dict[str, Any]) -> np.ndarray:
    """The counts of a shard's rows, int64 [rows, 3]: tokens, maskable tokens, segments.

    Raises:
        ValueError: they cannot be decoded, or contradict the shard's sums.
    """
    try:
        raw = zlib.decompress(base64.b64decode(shard["counts"], validate=True))
        counts = np.frombuffer(raw, "<u4").reshape(-1, len(COUNT_COLUMNS)).astype(np.int64)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise ValueError(f"counts of {shard['name']} cannot be decoded: {error}") from None
    found = {"rows": len(counts), "tokens": int(counts[:, 0].sum()), "segments": int(counts[:, 2].sum())}
    for key, number in found.items():
        if number != shard[key]:
            raise ValueError(f"{shard['name']} has {shard[key]} {key}, but {number} are counted")
    return counts


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over what decides the ids of a text: vocabulary, model settings, normaliser, pre-tokenizer.

    Settings of padding, truncation and templates do not count, as they change when a tokenizer is saved again.

    Raises:
        ShardError: the folder has no tokenizer.json, or it is damaged.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ShardError(f"{path}: missing; load the tokenizer with AutoTokenizer and save it again to make the file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        decisive = {
            "model": {key: value for key, value in data["model"].items() if value is not None},
            "normalizer": data.get("normalizer"),
            "pre_tokenizer": data.get("pre_tokenizer"),
            "added_tokens": sorted((token["id"], token["content"]) for token in data.get("added_tokens", [])),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{path}: damaged ({type(error).__name__}: {error}); save the tokenizer again") from None
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remedy(path: str | Path) -> str:
    """The command that makes a prepared folder."""
    command = command_that_makes(str(path))
    return f"make it with: {command or f'python -m data_prep --config <config> --output {shlex.quote(str(path))}'}"


def repair(folder: str | Path) -> str:
    """What to do about a file of a prepared folder that is missing or damaged."""
    return f"restore it (launch/verify.py checks all files), or remove {folder} and {remedy(folder)}"


def _problem(manifest: dict[str, Any]) -> str | None:
    """What is wrong with a manifest's fields, if anything."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    missing = set(SPLITS) - set(manifest["splits"])
    if missing:
        return f"splits lack {', '.join(sorted(missing))}"
    if manifest["fingerprint"] != fingerprint_of(manifest):
        return "its fingerprint is not that of its shards and tokenizer"
    if manifest.get("checksum", "") not in ("", checksum_of(manifest)):
        return "its checksum is not that of its fields"
    problems = (_shard_problem(shard) for name in SPLITS for shard in manifest["splits"][name]["shards"])
    return next((problem for problem in problems if problem), None)


def _shard_problem(shard: dict[str, Any]) -> str | None:
    """Records follow each other without gaps, and their rows add up."""
    end = 0
    for record in shard["records"]:
        if record["offset"] != end:
            return f"{shard['name']} has a record at byte {record['offset']}, expected {end}"
        end += record["size"]
    if end + TAR_END != shard["bytes"]:
        return f"{shard['name']} has {shard['bytes']} bytes, its records end at {end}"
    rows = sum(record["rows"] for record in shard["records"])
    return None if rows == shard["rows"] else f"{shard['name']} has {shard['rows']} rows, its records {rows}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
