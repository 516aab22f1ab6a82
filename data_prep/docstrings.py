"""Source `docstrings`: the English that every Python installation carries.

Reads the standard library and a fixed list of installed distributions with `ast`, never importing them. Only the bodies
of modules, classes and functions are visited: walking every node of the tree costs four times as much and finds nothing
more. A document is one docstring; its group is the module, so no module stands in both halves of the corpus.
"""

from __future__ import annotations

import ast
import gc
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from data_prep.documents import DataPrepError, Document, Unit, batched_units
from data_prep.tally import Tally
from ofa.config import SourceConfig

STANDARD_LIBRARY = "python"
"""Stands in for a distribution's name."""

_UNIT_BYTES = 16_000_000
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Tests are a third of all code and hold next to no docstrings."""

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def units(source: SourceConfig, shard_characters: int) -> list[Unit]:
    """Batches of source files; an input is `distribution|path inside it`."""
    files = []
    for name in (STANDARD_LIBRARY, *source.distributions):
        root = _root(name)
        files += [(f"{name}|{path}", (root / path).stat().st_size) for path in _python_files(name, root)]
    return batched_units(files, _UNIT_BYTES)


def read(source: SourceConfig, unit: Unit, counts: Tally) -> Iterator[Document]:
    """The docstrings of a unit's files, in order; files that do not parse are counted."""
    roots = {name: _root(name) for name in {entry.partition("|")[0] for entry in unit.inputs}}
    for entry in unit.inputs:
        name, _, path = entry.partition("|")
        counts["files"] += 1
        try:
            data = (roots[name] / path).read_bytes()
            if b'"""' in data or b"'''" in data:  # spares the parser a fifth of the files
                yield from _documents(_parse(data), name, path)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            counts["unreadable_files"] += 1


def versions(source: SourceConfig) -> dict[str, str]:
    """Version of everything that is read."""
    installed = {name: _distribution(name).version for name in source.distributions}
    return {STANDARD_LIBRARY: ".".join(map(str, sys.version_info[:3])), **installed}


def times(source: SourceConfig) -> dict[str, int]:
    """Nothing: the versions say what is read, and an installation has times of its own."""
    return {}


def _documents(tree: ast.Module, distribution: str, path: str) -> Iterator[Document]:
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    pending: list[tuple[str, _Scope]] = [("", tree)]
    while pending:
        name, scope = pending.pop()
        first = scope.body[0] if scope.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            meta = {"distribution": distribution, "name": f"{module}.{name}".rstrip(".")}
            yield Document(f"{path}:{first.lineno}", inspect.cleandoc(first.value.value), meta, group=module)
        inner = [node for node in scope.body if isinstance(node, _Scope)]
        pending += [(f"{name}.{node.name}".lstrip("."), node) for node in reversed(inner)]  # pyright: ignore


def _parse(data: bytes) -> ast.Module:
    collecting = gc.isenabled()
    gc.disable()  # a tree is all allocation and no garbage: the collector would take a third of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(data)
    finally:
        if collecting:
            gc.enable()


def _python_files(name: str, root: Path) -> list[str]:
    if name == STANDARD_LIBRARY:
        paths = (path.relative_to(root) for path in root.rglob("*.py"))
    else:
        paths = (path for path in _distribution(name).files or [] if path.suffix == ".py" and ".." not in path.parts)
    found = [path.as_posix() for path in paths if not _SKIPPED_FOLDERS & set(path.parts)]
    found = [path for path in found if (root / path).is_file()]
    if not found:
        raise DataPrepError(f"distribution {name} lists no Python files (an editable install?); install it normally")
    return sorted(found)


def _root(name: str) -> Path:
    if name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    return Path(str(_distribution(name).locate_file("")))


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise DataPrepError(
            f"distribution {name} is not installed but source.distributions lists it: pip install {name}, or take it "
            "off the list"
        ) from None
