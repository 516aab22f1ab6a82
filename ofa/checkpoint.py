"""Save and resume: a checkpoint is complete or it does not exist.

    checkpoints/step-00001000/  DeepSpeed's files and checkpoint.json (step, world size, size and crc32 of every file)
    checkpoints/latest          the name of the newest complete one

Everything is written into a hidden folder beside, flushed to disk, and renamed by one rank; `latest` follows by a
rename of its own. A kill at any moment leaves the previous checkpoint in force. DeepSpeed's files hold pickles: load
only checkpoints that you trust.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any, Protocol

from ofa import dist
from ofa.config import CheckpointConfig
from ofa.files import beside, check_space, empty_folder_beside, explained_space, replace_folder, write_text
from ofa.run_folder import read_json, write_json

INDEX = "checkpoint.json"
USE_OLDER = "launch/pretrain.py --resume DIR, launch/export.py --checkpoint DIR"
FREE_SPACE = "free space and start the same command again: it continues from the newest checkpoint that is there"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what is wrong with it and what to do."""


class Saves(Protocol):
    """What writes and reads the engine's files (see `ofa.engine.engine.Engine`)."""

    def save(self, folder: Path, tag: str, client_state: dict[str, Any]) -> None:
        """Write into folder/tag on all ranks."""
        ...

    def load(self, folder: Path, tag: str) -> dict[str, Any]:
        """Read from folder/tag on all ranks."""
        ...


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        self.folder = folder
        self._config = config

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step stands, if there is one."""
        return self.folder / f"step-{step:08d}"

    def save(self, engine: Saves, step: int, client_state: dict[str, Any], *, pinned: int | None = None) -> Path:
        """Write the state with `step` updates applied (a collective call); old ones beyond the limits are removed,
        but not the one of step `pinned`."""
        final = self.at(step)
        partial = beside(final)
        dist.on_rank_zero(lambda: self._make_room(step))
        try:
            with explained_space(self.folder, f"checkpoint of step {step}", FREE_SPACE):
                engine.save(self.folder, partial.name, client_state)
                dist.barrier()
                if dist.rank() == 0:
                    index = {"step": step, "world_size": dist.world_size(), "files": _files(partial)}
                    write_json(partial / INDEX, index)
                    replace_folder(partial, final)  # one may be there that a killed run did not come to name
                    self.point_latest(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # above all on a full disk
            raise
        if dist.rank() == 0:
            self._remove_old(needed={final} if pinned is None else {final, self.at(pinned)})
        dist.barrier()
        return final

    def _make_room(self, step: int) -> None:
        """Remove what a killed save left; refuse to begin one that would not fit, going by the newest (one rank)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(beside(Path("step-*")).name):
            shutil.rmtree(leftover)
        newest = max(self.folder.glob("step-*"), default=None)
        if newest is not None:
            needed = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
            check_space(self.folder, f"checkpoint of step {step}", needed, FREE_SPACE)

    def latest(self) -> Path | None:
        """The newest complete checkpoint, also where its pointer was lost; None if the run has none yet.

        Raises:
            CheckpointError: `latest` names one that is not there.
        """
        pointer = self.folder / "latest"
        if not pointer.is_file():
            return max(self.folder.glob("step-*"), default=None)
        path = self.folder / pointer.read_text().strip()
        if not path.is_dir():
            complete = ", ".join(sorted(p.name for p in self.folder.glob("step-*"))) or "none"
            raise CheckpointError(
                f"{pointer} names {path.name}, which is missing; complete checkpoints: {complete}. "
                "Choose one with --resume DIR"
            )
        return path

    def take_over(self, path: Path) -> None:
        """Copy a checkpoint of another run into this folder, whole or not at all (one rank)."""
        final = self.at(int(path.name.removeprefix("step-")))
        self.folder.mkdir(parents=True, exist_ok=True)
        building = empty_folder_beside(final)
        try:
            with explained_space(self.folder, f"copy of {path}", FREE_SPACE):
                replace_folder(shutil.copytree(path, building, dirs_exist_ok=True), final)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def _remove_old(self, needed: set[Path]) -> None:
        steps = sorted(self.folder.glob("step-*"))
        every = self._config.keep_every
        for path in steps[: -self._config.keep_last]:
            if path not in needed and not (every and int(path.name.removeprefix("step-")) % every == 0):
                shutil.rmtree(path.rename(beside(path)))  # a kill in here leaves no half folder under its name

    def point_latest(self, path: Path) -> None:
        """Make one of these checkpoints the one to continue from."""
        write_text(self.folder / "latest", f"{path.name}\n")


def check(path: Path) -> dict[str, Any]:
    """Hold a checkpoint folder against its own index and return that.

    Raises:
        CheckpointError: a file is missing, or its size or crc32 differs.
    """
    if not (path / INDEX).is_file():
        raise CheckpointError(f"{path} is no checkpoint: it has no {INDEX}. A checkpoint is a step-* folder of a run")
    index = read_json(path / INDEX)
    numbers = (index.get("step"), index.get("world_size"))
    if not (isinstance(index.get("files"), dict) and all(type(number) is int and number >= 0 for number in numbers)):
        raise CheckpointError(f"checkpoint {path}: {INDEX} is damaged; take an older one ({USE_OLDER})")
    for name, expected in index["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} lacks {name}; take an older one ({USE_OLDER})")
        found = _describe(file)
        if found != expected:
            raise CheckpointError(
                f"checkpoint {path}: {name} is damaged (size and crc32 {found}, written as {expected}); "
                f"take an older one ({USE_OLDER})"
            )
    return index


def load(engine: Saves, path: Path) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint into a fresh engine (a collective call) and return its step and client state.

    Raises:
        CheckpointError: it is damaged, or was written by another number of ranks.
    """
    index = dist.on_rank_zero(lambda: check(path))
    if index["world_size"] != dist.world_size():
        raise CheckpointError(
            f"checkpoint {path} was written by {index['world_size']} ranks and this run has {dist.world_size()}; "
            f"start it with {index['world_size']}"
        )
    return index["step"], engine.load(path.parent, path.name)


def _files(folder: Path) -> dict[str, list[int]]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != INDEX)
    return {str(p.relative_to(folder)): _describe(p) for p in files}


def _describe(file: Path) -> list[int]:
    """[bytes, crc32]"""
    crc = 0
    with file.open("rb") as handle:
        while block := handle.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return [file.stat().st_size, crc]
