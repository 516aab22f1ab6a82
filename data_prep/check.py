"""What a preparation would work on, looked at before it begins: sources, tokenizer, output. Nothing is read through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep import sources, tokenizer
from data_prep.near_duplicates import check_installed
from data_prep.pipeline import finished
from data_prep.work import refuse_foreign_folder
from ofa.config import DataPrepConfig, SourceConfig, TokenizerConfig
from ofa.files import is_within


def found(config: DataPrepConfig, output: Path, made: Sequence[str] = ()) -> str:
    """What there is, in a line.

    Args:
        config, output: of the preparation.
        made: folders that others make before it; what lies in them is not looked for.

    Raises:
        DataPrepError: what of it cannot be used.
        ShardError: a finished output is damaged.
        OSError: something cannot be read.
    """
    if config.clean.near_duplicates:
        check_installed()
    said = []
    for name, source in config.named_sources().items():
        with sources.named(name):
            said.append(f"{name or source.kind}: {_source(source, made)}")
    return "; ".join([*said, _state(config, output), _tokenizer(config.tokenizer, config.sequence_length, made)])


def _source(source: SourceConfig, made: Sequence[str]) -> str:
    later = [path for path in source.paths if is_within(path, made)]
    there = [path for path in source.paths if path not in later]
    if not later:
        return sources.found(source)
    to_come = f"{', '.join(later)} to be made"
    return f"{sources.found(source.model_copy(update={'paths': there}))}, {to_come}" if there else to_come


def _tokenizer(config: TokenizerConfig, length: int, made: Sequence[str]) -> str:
    if config.init is not None and is_within(config.init, made):
        return f"tokenizer {config.init} to be made"
    return tokenizer.described(config, length)


def _state(config: DataPrepConfig, output: Path) -> str:
    """Of the output folder."""
    if finished(config, output) is not None:
        return f"{output} is finished"
    refuse_foreign_folder(output)
    return f"{output} {'holds unfinished work, which goes on' if (output / '.work').is_dir() else 'is to be made'}"
