"""Packages of the extra `export`, imported when an export needs them: training does without."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = "pip install 'sparse-ofa[export]'"


class MissingExtraError(ValueError):
    """A package that an export needs and that is not installed, or not whole."""


def load(package: str) -> Any:
    """A package by its name.

    Raises:
        MissingExtraError: with what installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"exports need {package}, which cannot be imported ({error}): {INSTALL}") from None


def version(package: str) -> str:
    """Version of a package, by its own word: its distribution may have another name, such as onnxruntime-gpu.

    Raises:
        MissingExtraError: as `load`.
    """
    return load(package).__version__.partition("-")[0]  # OpenVINO adds build, commit and branch
