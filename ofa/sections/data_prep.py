"""The sections of data preparation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section


class SourceConfig(Section):
    """Where documents come from."""

    kind: Literal["docstrings", "text", "parquet", "hub"]
    """`docstrings` of installed packages, `text` (.txt, .jsonl; also .gz, .zst, .xz), `parquet` files, or a dataset
    of the `hub` (also a local folder in its layout)."""

    paths: list[str] = []
    """Files, folders or glob patterns (`text`, `parquet`)."""

    distributions: list[str] = []
    """Installed distributions to read (`docstrings`); the standard library is always read."""

    dataset: str | None = None
    """Hub id or local folder (`hub`)."""

    subset: str | None = None
    """Configuration of the dataset, for example `20231101.en` (`hub`)."""

    split: str = "train"
    """Split of the dataset (`hub`)."""

    streaming: bool = False
    """Read the dataset over the network without keeping a copy in the cache (`hub`)."""

    text_field: str = "text"
    """Column or JSON key of the text."""

    id_field: str | None = "id"
    """Column or JSON key of the identifier; where it is missing the position in the file serves."""

    group_field: str | None = None
    """Column or JSON key whose value keeps documents together in the split; null: each document alone."""

    @model_validator(mode="after")
    def _kind_is_complete(self) -> SourceConfig:
        if self.kind in ("text", "parquet") and not self.paths:
            raise ValueError(f"source.kind {self.kind} needs source.paths")
        if self.kind == "hub" and not self.dataset:
            raise ValueError("source.kind hub needs source.dataset")
        return self


class CleanConfig(Section):
    """Filters; each counts what it drops in the manifest."""

    min_characters: int = Field(default=1, ge=0)
    """Shorter documents are dropped."""

    max_characters: int | None = Field(default=None, gt=0)
    """Longer documents are dropped; null: none are."""

    drop_code_lines: bool = False
    """Drop doctest lines (`>>>`, `...`) and rule lines (`----`, `====`)."""

    deduplicate: bool = True
    """Keep the first of documents whose text, white space aside, is the same."""


class TokenizerConfig(Section):
    """A tokenizer to load, or a WordPiece vocabulary to train on the documents."""

    init: str | None = None
    """A local folder or a hub id; null trains one."""

    vocab_size: int = Field(default=8192, gt=0)
    """Entries of a trained vocabulary."""

    lowercase: bool = True
    """Lower-case and strip accents in a trained tokenizer."""


class DataPrepConfig(Section):
    """Text to shards: `python -m data_prep --config FILE`."""

    seed: int = Field(default=42, ge=0)
    """Sentence pairs and short sequences derive from it."""

    source: SourceConfig
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()

    mode: Literal["doc_sentences", "segment_pair_nsp"] = "doc_sentences"
    """`doc_sentences`: sentences of one document joined by [SEP]. `segment_pair_nsp`: BERT's sentence pairs."""

    sentences: Literal["rule", "nupunkt", "none"] = "rule"
    """Sentence splitter; `none` takes a document as one sentence."""

    sequence_length: int = Field(default=512, gt=4)
    """Tokens in a packed row."""

    overflow: Literal["cut", "close"] = "cut"
    """The sentence that overflows a segment (`doc_sentences`): `cut` fills the segment with its beginning and starts
    the next one with the rest, so that rows are full; `close` keeps it whole for the next segment, as the published
    method does, which leaves 4 % of a 512-token row empty on long articles and 13 % of a 128-token one."""

    short_sequence_probability: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of documents with a random shorter target length (`segment_pair_nsp`)."""

    validation_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of document groups that goes to validation, by a hash of the group."""

    record_tokens: int = Field(default=65536, ge=1024)
    """Tokens in one record of a shard."""

    shard_characters: int = Field(default=64_000_000, ge=1000)
    """Characters of text in one shard: the unit of work and of a restart."""

    @model_validator(mode="after")
    def _pairs_need_sentences(self) -> DataPrepConfig:
        if self.mode == "segment_pair_nsp" and self.sentences == "none":
            raise ValueError("mode segment_pair_nsp pairs sentences: sentences must be rule or nupunkt, found none")
        return self
