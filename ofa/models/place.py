"""Where a model's weights come from: a folder of this machine, or the hub. Imports nothing heavy, so that a folder that
is not there is said at once."""

from __future__ import annotations

from pathlib import Path

from ofa.config import command_that_makes


class ModelError(ValueError):
    """A model that cannot be built, or does not fit the data or its teacher."""


def is_local(init: str) -> bool:
    """Whether `init` means a folder of this machine: it exists, or cannot be a hub id (`name` or `owner/name`)."""
    path = Path(init).expanduser()
    return path.exists() or path.is_absolute() or init.startswith(("./", "../", "runs/")) or init.count("/") > 1


def check_place(init: str | None) -> None:
    """Refuse a local model folder that is not there; hub ids are tried when they are loaded.

    Raises:
        ModelError: with the command that makes it, if a shipped config does.
    """
    if init is not None and is_local(init) and not (Path(init).expanduser() / "config.json").is_file():
        command = command_that_makes(init)
        hint = f"make it with: {command}" if command else "give a folder with config.json and weights, or a hub id"
        raise ModelError(f"model folder {init} not found (no config.json there); {hint}")
