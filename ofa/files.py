"""Files and folders that are whole or absent: written beside, pushed to the disk, then renamed."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Numbers of the Linux system call."""


def beside(path: Path) -> Path:
    """The hidden name under which `path` is written before it is renamed."""
    return path.with_name(f".writing-{path.name}")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that a kill at any moment leaves the old content or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new."""
    partial = beside(path)
    partial.write_bytes(data)
    flush_file(partial)
    os.replace(partial, path)
    flush_folder(path.parent)


def empty_folder_beside(path: Path) -> Path:
    """A fresh hidden folder in which `path` is built; what a killed run left there is removed."""
    building = beside(path)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def replace_folder(building: Path, final: Path) -> None:
    """Give a built folder its final name, in place of what stands there; what stood there is deleted.

    A folder cannot be renamed over another one. Linux can exchange two names in one step; where system or file system
    cannot (some network file systems), the old folder steps aside first, and a kill in that moment leaves both whole
    under hidden names.
    """
    flush(building)
    if not final.exists():
        building.rename(final)
        flush_folder(final.parent)
        return
    old = building
    if not exchange(building, final):
        old = final.with_name(f".replaced-{final.name}")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        building.rename(final)
    flush_folder(final.parent)
    shutil.rmtree(old)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically (`renameat2`); False where it cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def flush(folder: Path) -> None:
    """Push a folder's files and names to the disk."""
    for path in folder.rglob("*"):
        (flush_folder if path.is_dir() else flush_file)(path)
    flush_folder(folder)


def flush_file(path: Path) -> None:
    """Push a file's bytes to the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def flush_folder(path: Path) -> None:
    """Push a folder's names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
