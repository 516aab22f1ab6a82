"""Save and resume: a checkpoint is complete or it does not exist.

    checkpoints/step-00001000/            DeepSpeed's files and checkpoint.json (step, ranks, stage, crc32 of files)
    checkpoints/latest                    the name of the newest complete one
    checkpoints/universal/step-00001000/  the same state for any ranks and stage, until the next one is saved

Everything is written into a hidden folder beside, flushed to disk, and renamed by one rank; `latest` follows by a
rename of its own. A kill at any moment leaves the previous checkpoint in force; so does a damaged file, which its crc32
betrays. DeepSpeed's files hold pickles: load only checkpoints that you trust.
"""

from __future__ import annotations

import logging
import re
import shutil
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ofa import dist
from ofa.config import CheckpointConfig
from ofa.engine.universal import convert
from ofa.files import beside, check_space, explained_space, new_folder, replace_folder, write_text
from ofa.run_files import RunFolderError, read_json, write_json

LOG = logging.getLogger(__name__)

INDEX = "checkpoint.json"
DAMAGED = ".damaged-"
"""Begins the names of checkpoints that were passed over."""

UNIVERSAL = "universal"
"""Folder of converted states. A state is written once more while it is converted."""

ADVICE = "; take an older one (launch/pretrain.py --resume DIR, launch/export.py --checkpoint DIR)"
FREE_SPACE = "free space and start the same command again: it continues from the newest checkpoint that is there"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what is wrong with it and what to do."""


class Start(NamedTuple):
    """The folder that an engine loads."""

    path: Path
    universal: bool = False
    """It is in the form that any ranks and stage can load."""
    converted_from: Path | None = None
    """The checkpoint that it was made from; None: it is that itself."""

    @property
    def checkpoint(self) -> Path:
        """As its run has written it, in that run's folder."""
        return self.converted_from or self.path


class Saves(Protocol):
    """What writes and reads the engine's files (see `ofa.engine.engine.Engine`)."""

    @property
    def layout(self) -> Mapping[str, int]:
        """Number of ranks and ZeRO stage: how the files are divided."""
        ...

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
        self._passed_over: list[Path] = []

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step stands, if there is one."""
        return self.folder / f"step-{step:08d}"

    def save(self, engine: Saves, step: int, client_state: dict[str, Any], *, needed: Collection[int] = ()) -> Path:
        """Write the state with `step` updates applied (a collective call); old ones beyond the limits are removed,
        but not those of the `needed` steps."""
        final = self.at(step)
        partial = beside(final)
        dist.on_rank_zero(lambda: self._make_room(step))
        try:
            with explained_space(self.folder, f"checkpoint of step {step}", FREE_SPACE):
                engine.save(self.folder, partial.name, client_state)
                dist.barrier()
                if dist.rank() == 0:
                    write_json(partial / INDEX, {"step": step, **engine.layout, "files": _files(partial)})
                    replace_folder(partial, final)  # one may be there that a killed run did not come to name
                    self.point_latest(final)
        except BaseException:
            if dist.rank() == 0:  # who alone knows that it has no name yet
                shutil.rmtree(partial, ignore_errors=True)  # above all on a full disk
            raise
        if dist.rank() == 0:
            self._remove_old(final, needed={final, *map(self.at, needed)})
        dist.barrier()
        return final

    def _make_room(self, step: int) -> None:
        """Remove what a killed save left; refuse to begin one that would not fit, going by the newest (one rank)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in (beside(Path("step-*")).name, ".replaced-step-*", f"{DAMAGED}step-*"):
            for leftover in self.folder.glob(left):
                shutil.rmtree(leftover)
        newest = max(self.folder.glob("step-*"), default=None)
        if newest is not None:
            needed = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
            check_space(self.folder, f"checkpoint of step {step}", needed, FREE_SPACE)

    def latest(self) -> Path | None:
        """The newest complete checkpoint that is intact, also where its pointer was lost; None if the run has none yet.

        One that is damaged or gone is passed over with a warning, for the one before.

        Raises:
            CheckpointError: none is intact.
        """
        there = sorted(self.folder.glob("step-*"), reverse=True)
        named = self._named()
        if named is not None:
            there = [named, *(path for path in there if path < named)]
        for number, path in enumerate(there, start=1):
            try:
                check(path)
            except (CheckpointError, RunFolderError) as error:
                found = str(error).removesuffix(ADVICE)
                if number == len(there):
                    raise CheckpointError(
                        f"{self.folder} holds no intact checkpoint, {number} looked at, the last: {found}. Put back a "
                        "copy, or start anew in another --run-dir"
                    ) from None
                LOG.warning("%s. Going back to the checkpoint before", found)
                self._passed_over.append(path)
            else:
                return path
        return None

    def set_aside(self, newest: Path) -> None:
        """Take the name from what `latest` has passed over, so that it counts as a checkpoint no longer; it is removed
        when the next one is saved (one rank)."""
        for path in self._passed_over:
            if path.is_dir():
                path.rename(path.with_name(f"{DAMAGED}{path.name}"))
        if self._passed_over:
            self.point_latest(newest)
        self._passed_over = []

    def _named(self) -> Path | None:
        """What the pointer names; None if it is lost or says nothing."""
        pointer = self.folder / "latest"
        if not pointer.is_file():
            return None
        name = pointer.read_bytes().decode(errors="replace").strip()
        if re.fullmatch(r"step-\d+", name):
            return self.folder / name
        LOG.warning("%s is damaged: it names no checkpoint. Taking the newest", pointer)
        return None

    def forget_converted(self) -> None:
        """Remove states that were converted: this run has saved one of its own layout (one rank)."""
        shutil.rmtree(self.folder / UNIVERSAL, ignore_errors=True)

    def close(self) -> None:
        """The run has ended, and its model is exported: remove what nobody asked to keep (one rank)."""
        self.forget_converted()
        if not self._config.keep_finished:
            shutil.rmtree(self.folder)

    def for_layout(self, path: Path, layout: Mapping[str, int]) -> Start | None:
        """What an engine of this layout loads to continue from a checkpoint, which is converted if it has another (one
        rank); None if that is the state before the first update, which a fresh engine has.

        Raises:
            CheckpointError: it can't be converted.
        """
        index = read_json(path / INDEX)
        wanted, found = dict(layout), {key: index.get(key, value) for key, value in layout.items()}
        stages = {wanted["zero_stage"], found["zero_stage"]}
        if found == wanted or stages == {0}:  # ZeRO 0 divides nothing
            return Start(path)
        if index["step"] == 0:
            return None  # DeepSpeed's converter knows no optimizer that has not stepped
        if 0 in stages:
            raise CheckpointError(
                f"checkpoint {path} was written at ZeRO {found['zero_stage']} and this run has ZeRO "
                f"{wanted['zero_stage']}: DeepSpeed converts neither from nor to ZeRO 0. Set engine.zero_stage to "
                f"{found['zero_stage']}"
            )
        LOG.warning(
            "the checkpoint is of %d ranks at ZeRO %d, this run has %d at ZeRO %d: converting it, so last bits may "
            "differ from here on",
            *(found["world_size"], found["zero_stage"], wanted["world_size"], wanted["zero_stage"]),
        )
        return Start(self._converted(path, index), universal=True, converted_from=path)

    def _converted(self, path: Path, index: dict[str, Any]) -> Path:
        """The universal form of a checkpoint; one that a killed run has made serves."""
        final = self.folder / UNIVERSAL / path.name
        if final.is_dir() and _is_intact_copy(final, index):
            return final
        what, needed = f"{path.name} for other ranks", sum(size for size, _ in index["files"].values())
        self.folder.mkdir(parents=True, exist_ok=True)
        check_space(self.folder, what, 2 * needed, FREE_SPACE)  # DeepSpeed writes every piece, then the whole
        with explained_space(self.folder, what, FREE_SPACE), new_folder(final) as building:
            convert(path.resolve(), building.resolve())
            write_json(building / INDEX, {**index, "files": _files(building), "source": index["files"]})
        return final

    def take_over(self, path: Path) -> None:
        """Copy a checkpoint of another run into this folder, whole or not at all (one rank)."""
        final = self.at(int(path.name.removeprefix("step-")))
        self.folder.mkdir(parents=True, exist_ok=True)
        with explained_space(self.folder, f"copy of {path}", FREE_SPACE), new_folder(final) as building:
            shutil.copytree(path, building, dirs_exist_ok=True)

    def _remove_old(self, newest: Path, needed: set[Path]) -> None:
        """Those before the newest beyond the limits. What stands after it is of steps that will be done again: maybe
        damaged, and no reason to give up an intact one."""
        steps = sorted(path for path in self.folder.glob("step-*") if path <= newest)
        every = self._config.keep_every
        self.forget_converted()
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
        raise CheckpointError(f"checkpoint {path}: {INDEX} is damaged{ADVICE}")
    for name, expected in index["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} lacks {name}{ADVICE}")
        found = _describe(file)
        if found != expected:
            raise CheckpointError(
                f"checkpoint {path}: {name} is damaged (size and crc32 {found}, written as {expected}){ADVICE}"
            )
    return index


def load(engine: Saves, start: Start) -> tuple[int, dict[str, Any]]:
    """Load a checked checkpoint into a fresh engine (a collective call) and return its step and client state."""
    state = engine.load(start.path.parent, start.path.name)
    return state["step"], state


def _is_intact_copy(universal: Path, index: dict[str, Any]) -> bool:
    """Whether a converted state is whole, and made from the checkpoint with this index."""
    try:
        return check(universal).get("source") == index["files"]
    except (CheckpointError, RunFolderError):
        return False


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
