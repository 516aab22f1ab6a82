"""Files of a model, read from a folder of this machine or fetched from the hub through transformers.

In: what a config calls `init`. Out: what transformers needs to know, or a file's path; whatever goes wrong on the way
is one error that says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants
from transformers.utils.hub import cached_file

from ofa.hub import is_local, unreachable
from ofa.models.place import ModelError, check_place

LOG = logging.getLogger(__name__)

WORDS_OF_OTHERS = 300
"""Characters of another library's message that are passed on."""
_OPTIONAL = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_connection_errors": False,
}


def side_file(init: str, name: str) -> Path | None:
    """A file that stands beside a model's weights, in its folder or on the hub; None if there is none.

    Raises:
        ModelError: there is no such model.
    """
    with explained(init), quiet():
        place = where(init)
        found = cached_file(place.pop("pretrained_model_name_or_path"), name, **place, **_OPTIONAL)
    return None if found is None else Path(found)


def where(init: str) -> dict[str, Any]:
    """How transformers is told where a model is; a folder of this machine is never asked of the hub, nor is a hub that
    cannot be reached, whose models may be in the cache."""
    local = is_local(init)
    name = str(Path(init).expanduser()) if local else init
    alone = local or not _hub_answers()
    return {"pretrained_model_name_or_path": name, "local_files_only": alone}


@cache
def _hub_answers() -> bool:
    """Whether the hub does; said once if not."""
    reason = unreachable()
    if reason is not None and not constants.HF_HUB_OFFLINE:
        LOG.warning("%s: its models are looked for in the cache", reason)
    return reason is None


@contextmanager
def explained(init: str) -> Iterator[None]:
    """Turn the many ways in which transformers says "no such model" into one error that says what to do."""
    check_place(init)
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # a damaged file may break anything in their readers
        first_line = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:WORDS_OF_OTHERS].rstrip(".")
        if is_local(init):
            raise ModelError(f"model folder {init} cannot be loaded: {first_line}") from error
        raise ModelError(
            f"{init} is neither a local folder nor a model that could be fetched from the hub: {first_line}. Offline, "
            "download it elsewhere and give the folder's path"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no table of unused weights: the log names them in one line."""
    level, had_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if had_bars:
            transformers.logging.enable_progress_bar()
