"""Whether a name means a folder of this machine or something on the hub, and whether the hub can be asked for it.

Imports nothing heavy: the hub's client is imported where the hub is asked.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

SECONDS_FOR_THE_HUB = 10.0
"""To say anything at all."""

TRIES = 2


def is_local(name: str) -> bool:
    """Whether `name` means a folder of this machine: it exists, or cannot be a hub id (`name` or `owner/name`)."""
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute() or name.startswith(("./", "../", "runs/")):
        return True
    return name.count("/") > 1 or name.endswith("/")


@cache
def unreachable() -> str | None:
    """Why the hub does not answer, None if it does; asked once a process: its own client tries six times for each file,
    which takes minutes offline, before it looks into the cache."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    for remaining in reversed(range(TRIES)):
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS_FOR_THE_HUB)
            return None
        except Exception as error:  # of whichever HTTP library the hub's client is built upon
            if not remaining:
                return f"{constants.ENDPOINT} cannot be reached ({error})"
    return None
