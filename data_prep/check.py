"""What a preparation would work on, looked at before it begins: sources, tokenizer, output. Nothing is read through."""

from __future__ import annotations

from pathlib import Path

from data_prep import sources, tokenizer
from data_prep.near_duplicates import check_installed
from data_prep.pipeline import finished
from data_prep.work import refuse_foreign_folder
from ofa.config import DataPrepConfig


def found(config: DataPrepConfig, output: Path) -> str:
    """What there is, in a line.

    Raises:
        DataPrepError: what of it cannot be used.
        ShardError: a finished output is damaged.
        OSError: something cannot be read.
    """
    if config.clean.near_duplicates:
        check_installed()
    said = [*sources.all_found(config), _state(config, output)]
    return "; ".join([*said, tokenizer.described(config.tokenizer, config.sequence_length)])


def _state(config: DataPrepConfig, output: Path) -> str:
    """Of the output folder."""
    if finished(config, output) is not None:
        return f"{output} is finished"
    refuse_foreign_folder(output)
    return f"{output} {'holds unfinished work, which goes on' if (output / '.work').is_dir() else 'is to be made'}"
