"""Where a model's weights come from: a folder of this machine, or the hub. Imports nothing heavy, so that a folder that
is not there is said at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ofa.config import command_that_makes
from ofa.hub import is_local

MODEL_FOLDER = "model"
"""Of a run folder, its model."""

EXPORT_FILE = "export.json"
"""What a folder has that was exported to a runtime."""


class ModelError(ValueError):
    """A model that cannot be built, or does not fit the data or its teacher."""


def check_place(init: str | None, key: str | None = None, *, maker: str | None = None) -> None:
    """Refuse a local model folder that is not there, and a run folder in its place; hub ids are tried when they are
    loaded.

    Args:
        init: what a config calls so.
        key: where it stands in the config, for the error.
        maker: the script whose runs make such models.

    Raises:
        ModelError: with the model in the run folder, or the command that makes it, as far as shipped configs tell.
    """
    if init is None or not is_local(init):
        return
    folder, place = Path(init).expanduser(), f"{key}: " if key else ""
    if not (folder / "config.json").is_file():
        hint = _the_one_inside(folder) or _how_to_make(init, maker)
        raise ModelError(f"{place}model folder {init} not found (no config.json there); {hint}")
    if key is not None and (folder / EXPORT_FILE).is_file():  # elsewhere its tokenizer and config are wanted
        hint = _the_one_inside(folder.parent) or "give the model folder that it was made from"
        raise ModelError(f"{place}{init} was exported to a runtime and has no weights for torch; {hint}")
    values = _values(folder / "config.json")
    if "config" in values and "model_type" not in values:
        hint = _the_one_inside(folder) or "it has not made its model yet: start its command again"
        raise ModelError(f"{place}{init} is the folder of a run, not of a model; {hint}")


def beside_model(folder: Path, name: str) -> Path:
    """Where what is made of a run's model goes: into the run folder, which may be given by the model inside it."""
    return (folder.parent if folder.name == MODEL_FOLDER else folder) / name


def check_there(given: str | Path) -> None:
    """Refuse a path at which nothing is, and a text that means such a path and no model of the hub.

    Raises:
        ModelError: with the command that makes it, as far as shipped configs tell.
    """
    path = Path(given).expanduser()
    if (isinstance(given, Path) or is_local(given)) and not path.exists():
        raise ModelError(not_a_folder(path, "a run folder or a model folder"))


def named(argument: str) -> tuple[str, str]:
    """Name, empty where none is given, and folder of `[NAME=]FOLDER`; folders of sweeps have = in their names."""
    name, sign, text = argument.partition("=")
    return ("", argument) if not sign or "/" in name or Path(argument).exists() else (name, text)


def not_a_folder(path: Path, expected: str) -> str:
    """What to say of a path that is no folder: a file, or nothing, and what makes it if a shipped config does."""
    if path.exists():
        return f"{path} is a file; expected {expected}"
    command = command_that_makes(str(path)) or command_that_makes(str(path / MODEL_FOLDER))
    return f"{path}: no such folder; " + (f"make it with: {command}" if command else f"expected {expected}")


def _how_to_make(init: str, maker: str | None) -> str:
    """The command that makes a model; what is known of it where no shipped config does."""
    command = command_that_makes(init)
    if command is not None:
        return f"make it with: {command}"
    given = "give a folder with config.json and weights, or a hub id"
    if maker is None:
        return given
    target = f" --run-dir {Path(init).parent}" if Path(init).name == "model" else ""
    return f"make one with: python {maker} --config <config>{target}; or {given}"


def _the_one_inside(folder: Path) -> str | None:
    """The question whether the model that a folder holds was meant; None if it holds none."""
    there = (folder / MODEL_FOLDER / "config.json").is_file()
    return f"did you mean {folder / MODEL_FOLDER}?" if there else None


def _values(path: Path) -> dict[str, Any]:
    """What a config.json holds; nothing where it is damaged, which who loads the model says better."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
