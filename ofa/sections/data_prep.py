"""The sections of data preparation."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ofa.sections.base import Section, nearest

_SOURCE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


class WikiConfig(Section):
    """What of a wiki's pages becomes text."""

    headings: bool = False
    """Keep headings, each as a paragraph."""

    lists: Literal["drop", "sentences", "keep"] = "sentences"
    """Items of lists: none, those that are whole sentences, or all."""

    drop_sections: tuple[str, ...] | None = None
    """Titles of sections that are left out; null: references, external links and their like, in English and in
    the dump's language."""

    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces that are read; 0: articles."""

    disambiguations: bool = False
    """Keep pages that only list the meanings of a title."""

    max_page_bytes: int = Field(default=8_000_000, ge=1000)
    """Longer pages are dropped, and never held in memory; no page of a Wikipedia is above 2 MB."""


class BooksConfig(Section):
    """How books are cut into documents."""

    chapters: bool = False
    """Each chapter is a document; those of a book stay in one half of the corpus. Else each book is one."""


class SourceConfig(Section):
    """Where documents come from."""

    ELSEWHERE: ClassVar[dict[str, str]] = {
        **{key: f"its wiki.{key}" for key in WikiConfig.model_fields},
        **{key: f"its books.{key}" for key in BooksConfig.model_fields},
    }

    kind: Literal["docstrings", "text", "parquet", "hub", "mediawiki", "wikiextractor", "books"]
    """`docstrings` of installed packages, `text` (.txt, .jsonl; also .gz, .zst, .xz), `parquet` files, a dataset of
    the `hub` (also a local folder in its layout), `mediawiki` dumps (.xml, .xml.bz2), the output of `wikiextractor`,
    or `books` (.txt)."""

    paths: list[str] = []
    """Files, folders or glob patterns (all kinds but `docstrings` and `hub`)."""

    weight: float = Field(default=1.0, gt=0.0, le=100.0)
    """How often each of its documents is in the training half: 2: twice, in shards of their own; 0.5: half of them."""

    licence: str | None = None
    """What the corpus card says of the text's licence."""

    on_damage: Literal["refuse", "skip"] = "refuse"
    """Damaged input (`mediawiki`, `wikiextractor`, `books`, `text`): stop with its name, or leave it out and count."""

    wiki: WikiConfig | None = None
    """Of `mediawiki`; null: its defaults."""

    books: BooksConfig | None = None
    """Of `books`; null: its defaults."""

    lines_are_paragraphs: bool = False
    """A line break ends a paragraph (`text`, `parquet`, `hub`); else only a blank line does."""

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
        if self.kind not in ("docstrings", "hub") and not self.paths:
            raise ValueError(f"kind {self.kind} needs paths")
        if self.kind == "hub" and not self.dataset:
            raise ValueError("source.kind hub needs source.dataset")
        for section, kind in (("wiki", "mediawiki"), ("books", "books")):
            if getattr(self, section) is not None and self.kind != kind:
                raise ValueError(f"{section} is for kind {kind}, found kind {self.kind}")
        return self


class CleanConfig(Section):
    """Filters; each counts what it drops in the manifest."""

    min_characters: int = Field(default=1, ge=0)
    """Shorter documents are dropped."""

    max_characters: int | None = Field(default=None, gt=0)
    """Longer documents are dropped; null: none are."""

    min_words: int = Field(default=0, ge=0)
    """Documents of fewer words are dropped."""

    language: Literal["en", "de", "fr", "es", "it", "nl", "pt", "sv", "pl"] | None = None
    """Documents that are not in this language, by their function words, are dropped; those too short to tell stay."""

    max_symbol_share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Documents with a larger share of characters that are no letters, digits, space or marks of prose are dropped."""

    max_repeated_lines: float | None = Field(default=None, gt=0.0, le=1.0)
    """Documents with a larger share of lines that have stood in them before are dropped."""

    unicode: Literal["none", "NFC", "NFKC"] = "none"
    """Unicode's normal form that texts are put in: NFC composes accents, NFKC also replaces ligatures."""

    drop_boilerplate_lines: bool = False
    """Drop short lines of web pages about cookies, privacy, logging in, and placeholders."""

    drop_code_lines: bool = False
    """Drop doctest lines (`>>>`, `...`) and rule lines (`----`, `====`)."""

    deduplicate: bool = True
    """Keep the first of documents whose text, white space aside, is the same."""

    near_duplicates: bool = False
    """Keep the first of documents that share most of their runs of five words (MinHash; needs datatrove)."""

    reject_samples: int = Field(default=5, ge=0, le=1000)
    """Documents that are kept in `rejects.jsonl` for each reason to drop any, to be read."""


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

    NAMED: ClassVar[tuple[str, ...]] = ("sources",)
    ELSEWHERE: ClassVar[dict[str, str]] = {
        **{key: f"source.{key} (of several sources: sources.NAME.{key})" for key in SourceConfig.model_fields},
        **{key: place.replace("its ", "source.") for key, place in SourceConfig.ELSEWHERE.items()},
        **{key: f"clean.{key}" for key in CleanConfig.model_fields},
        **{key: f"tokenizer.{key}" for key in TokenizerConfig.model_fields},
    }

    seed: int = Field(default=42, ge=0)
    """Sentence pairs and short sequences derive from it."""

    source: SourceConfig | None = None
    """The one source; or `sources`."""

    sources: dict[str, SourceConfig] = {}
    """Several sources by name, in one corpus; their names stand before the ids of their documents. null takes one of
    the base's away."""

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
    """Share of document groups that goes to validation."""

    split: Literal["hash", "prefix"] = "hash"
    """Which ones: by a hash of the group, or the first documents of the corpus, as the published method does."""

    record_tokens: int = Field(default=65536, ge=1024)
    """Tokens in one record of a shard."""

    shard_characters: int = Field(default=64_000_000, ge=1000)
    """Characters of text in one shard: the unit of work and of a restart."""

    def named_sources(self) -> dict[str, SourceConfig]:
        """All sources by name; a source alone has none, ""."""
        return self.sources if self.source is None else {"": self.source}

    @model_validator(mode="before")
    @classmethod
    def _keys_of_sources_are_where_they_belong(cls, values: Any) -> Any:
        """Without the sources that are null; what was put beside the sources, or into none of them, is named."""
        if not isinstance(values, dict):
            return values
        source, several = values.get("source"), values.get("sources")
        for key, value in values.items():
            if key not in cls.model_fields and _is_source(value):
                raise ValueError(f"{key} is a source by name: it stands in sources, as sources.{key}")
        if isinstance(source, dict):
            _check_one(source, several)
        if not isinstance(several, dict):
            return values
        several = {name: one for name, one in several.items() if one is not None}
        _check_several(several, source)
        return {**values, "sources": several}

    @model_validator(mode="after")
    def _sources_are_one_or_several(self) -> DataPrepConfig:
        if (self.source is None) == (not self.sources):
            found = "both; null takes one away" if self.sources else "neither"
            raise ValueError(f"give source, or several sources by name: found {found}")
        wrong = [name for name in self.sources if not _SOURCE_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"sources: names are letters, digits, - and _; found {wrong[0]!r}")
        grouped = any(
            source.group_field is not None or source.kind in ("docstrings", "books")
            for source in self.named_sources().values()
        )
        if self.split == "prefix" and (grouped or self.sources):
            raise ValueError("split prefix cuts one source whose documents have no groups; use hash")
        return self

    @model_validator(mode="after")
    def _pairs_need_sentences(self) -> DataPrepConfig:
        if self.mode == "segment_pair_nsp" and self.sentences == "none":
            raise ValueError("mode segment_pair_nsp pairs sentences: sentences must be rule or nupunkt, found none")
        return self


def _is_source(value: Any) -> bool:
    return isinstance(value, dict) and "kind" in value


def _check_one(source: dict[str, Any], several: Any) -> None:
    """Refuse sources by name in `source`, and keys of `source` where sources have names."""
    inside = next((name for name, value in source.items() if _is_source(value)), None)
    if inside is not None:
        raise ValueError(f"source is one source, without a name: {inside} stands in sources, as sources.{inside}")
    if isinstance(several, dict) and any(map(_is_source, several.values())) and "kind" not in source:
        first, key = next(iter(several)), next(iter(source), "kind")
        raise ValueError(
            f"there are several sources ({', '.join(several)}), and source is not one of them: did you mean "
            f"sources.{first}.{key}?"
        )


def _check_several(several: dict[str, Any], source: Any) -> None:
    """Refuse keys of a source as names in `sources`, and keys of a source that there is not."""
    known = [name for name, one in several.items() if _is_source(one)]
    for name, one in several.items():
        if name in SourceConfig.model_fields and not isinstance(one, dict):
            meant = f"sources.{known[0] if known else 'NAME'}.{name}"
            raise ValueError(f"sources holds sources by name: did you mean {meant}?")
        if isinstance(one, dict) and "kind" not in one and isinstance(source, dict):
            raise ValueError(f"there is one source, without a name: did you mean source.{next(iter(one), 'kind')}?")
        if isinstance(one, dict) and "kind" not in one and known:
            raise ValueError(f"sources.{name} has no kind, and the base has no such source{nearest(name, known)}")
