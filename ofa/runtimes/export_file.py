"""`export.json`: what stands in a folder that was exported to a runtime, and what it was held against.

`recipe.json` beside it is the model's own, as its folder had it: what made it. This file says what the export did.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ofa.export.hf import MODEL_FOLDER, ExportError
from ofa.export.recipe_file import fingerprint_of_file
from ofa.models.place import EXPORT_FILE

ABOUT = {"format": "sparse-ofa export", "version": 1}
"""What stands at its head."""


def encode_export(parts: Mapping[str, Any]) -> str:
    """The text of the file."""
    return json.dumps({**ABOUT, **parts}, indent=1) + "\n"


def runtime_files(found: Mapping[str, Any]) -> list[str]:
    """Names of the files that the runtime reads, of all that export.json lists."""
    return [name for name in found["files"] if name.startswith(Path(found["file"]).stem)]


def is_export(folder: Path) -> bool:
    """Whether a folder was exported to a runtime."""
    return (folder / EXPORT_FILE).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """What the file says, after the files that it names were held against their sums.

    Raises:
        ExportError: none there, damaged, of another format, a file is missing or has changed, or the model beside it is
            another by now.
    """
    found = parse_export(folder)
    for name, what in changed_files(folder, found):
        raise ExportError(f"{folder / name} {what}: export the model again")
    stale = stale_because(folder, found)
    if stale is not None:
        raise ExportError(f"{folder} is stale: {stale}")
    return found


def stands_beside(folder: Path, model: Path) -> bool:
    """Whether an export stands in the run folder of the model that it is of."""
    model = model.resolve()
    return model.name == MODEL_FOLDER and model.parent == folder.resolve().parent


def model_beside(folder: Path, found: Mapping[str, Any]) -> Path | None:
    """The model that an export was made from, where it stands beside it as it was."""
    model = _place_of_the_model(folder)
    parts = {model / name: fingerprint for name, fingerprint in found["model"].items()}
    same = all(path.is_file() and fingerprint_of_file(path) == fingerprint for path, fingerprint in parts.items())
    return model if same else None


def stale_because(folder: Path, found: Mapping[str, Any]) -> str | None:
    """In words, that the model beside an export has changed since it was made, and what renews it; None: it has not,
    or the export was made to stand elsewhere, or alone by now."""
    model = _place_of_the_model(folder)
    if not found.get("beside_its_model") or not model.is_dir() or model_beside(folder, found) is not None:
        return None
    form, precision = found["runtime"], found["precision"]
    return (
        f"{model} has changed since it was exported; renew it: python launch/export.py {model} --format {form} "
        f"--precision {precision} --output {folder.resolve()}"
    )


def _place_of_the_model(folder: Path) -> Path:
    """Where it stands if the export is in its run folder, however the path is spelt (`.`)."""
    return folder.resolve().parent / MODEL_FOLDER


def parse_export(folder: Path) -> dict[str, Any]:
    """What the file says; of the files that it names nothing is looked at.

    Raises:
        ExportError: none there, damaged, or of another format.
    """
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise ExportError(f"{path} does not exist: {folder} was not exported to a runtime (launch/export.py --format)")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict) or {key: found.get(key) for key in ABOUT} != ABOUT:
        raise ExportError(f"{path} is not a {ABOUT['format']} file of version {ABOUT['version']}")
    return found


def changed_files(folder: Path, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of files that are not as they were exported, and what is wrong with each."""
    for name, fingerprint in found["files"].items():
        if not (folder / name).is_file():
            yield name, f"is missing, and {EXPORT_FILE} lists it"
        elif fingerprint_of_file(folder / name) != fingerprint:
            yield name, "is not the file that was exported (its sha256 differs)"
