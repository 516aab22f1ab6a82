"""A run's folder on disk: who owns it, what was asked for, and how far it came.

    runs/<name>/  config.json  metrics.jsonl  result.json  log.txt  checkpoints/  model/  tensorboard/  report.html
                 samples/ (if log.samples)  stop (made by a user: save and end)

One process group owns the folder at a time, by a kernel lock that dies with its holder, so a killed run never has to
be unlocked by hand. `config.json` is written once; a start with another config or other data is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import socket
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

from ofa.code_version import commit
from ofa.config import TrainingConfig
from ofa.cost import Size, checkpoint_bytes, disk_bytes
from ofa.files import check_space, megabytes
from ofa.run_files import (
    Otherwise,
    RunFolderError,
    check_config,
    elsewhere,
    in_use,
    is_finished,
    read_record,
    try_lock,
    write_json,
)

RECORDED = ("torch", "triton", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "webdataset")
"""Distributions whose versions a run records, where they are installed."""

TRIES = 10
BETWEEN_TRIES = 0.05
"""Seconds between two tries to get the lock."""


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.structure = path / "structure.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.tensorboard = path / "tensorboard"
        self.samples = path / "samples"
        self.log = path / "log.txt"
        self.report = path / "report.html"
        self.stop = path / "stop"
        self._lock: TextIO | None = None
        self._made: list[Path] = []
        self._there: set[Path] = set()

    def acquire(self) -> None:
        """Create the folder and take its lock (one rank of a run).

        Raises:
            RunFolderError: another live run holds it, or its file system has no locks.
        """
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._there = set(self.path.iterdir())
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.path} cannot be written: {error.strerror}; choose another --run-dir"
            ) from error
        try:
            got = _locked(lock)
        except RunFolderError:
            lock.close()
            self._leave_as_found()
            raise
        if not got:
            lock.seek(0)
            holder = lock.read().strip() or "an unknown process"
            lock.close()
            raise RunFolderError(in_use(self.path, holder))
        lock.truncate(0)
        lock.write(f"host {socket.gethostname()}, pid {os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Give the lock back; of a run that was refused before it began, nothing stays."""
        if self._lock is None:
            return
        self._lock.truncate(0)
        if not self.has_started():
            self._leave_as_found()
        self._lock.close()
        self._lock = None

    def _leave_as_found(self) -> None:
        for path in set(self.path.iterdir()) - self._there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in self._made:
            folder.rmdir()

    def check_space(self, config: TrainingConfig, size: Size) -> None:
        """Refuse a run whose newest checkpoints and model do not fit on the disk.

        Raises:
            DiskFull: with what is needed and free; what the folder holds already counts as free.
        """
        used = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        check_space(
            self.path,
            f"{config.most_checkpoints} checkpoints of {megabytes(checkpoint_bytes(config, size))} and a model",
            disk_bytes(config, size) - used,
            "free space, lower checkpoint.keep_last, or choose another --run-dir",
        )

    def is_finished(self) -> bool:
        """Whether the run has written its result, and the model that it exported is all there."""
        return is_finished(self.path)

    def has_started(self) -> bool:
        """Whether a run has written its config here."""
        return self.config.is_file()

    def check(
        self, config: TrainingConfig, data_fingerprint: str | None = None, otherwise: Otherwise = elsewhere
    ) -> None:
        """Refuse to continue with another config or other data; `otherwise` as of `ofa.run_files.check_config`.

        Raises:
            RunFolderError: naming the keys that differ.
        """
        recorded = check_config(self.path, config, otherwise)
        if data_fingerprint is not None and recorded["data_fingerprint"] != data_fingerprint:
            raise RunFolderError(
                f"{self.path} was started on other data: fingerprint {str(recorded['data_fingerprint'])[:12]}, "
                f"there is now {data_fingerprint[:12]}. Restore the data, or {otherwise([])}"
            )

    def recorded(self) -> dict[str, Any]:
        """What `record` wrote.

        Raises:
            RunFolderError: it is missing, damaged, or another config.json.
        """
        return read_record(self.path)

    def record(self, config: TrainingConfig, data_fingerprint: str, world_size: int, total_steps: int) -> None:
        """Write config.json: what was asked for, with what, on what."""
        write_json(
            self.config,
            {
                "config": config.model_dump(mode="json"),
                "config_fingerprint": config.fingerprint(),
                "data_fingerprint": data_fingerprint,
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "world_size": world_size,
                "total_steps": total_steps,
                **surroundings(),
            },
        )


def _locked(lock: TextIO) -> bool:
    """Whether the lock was got; tried again, since who only looks whether a folder is held has it for a moment."""
    for _ in range(TRIES):
        if try_lock(lock, fcntl.LOCK_EX):
            return True
        time.sleep(BETWEEN_TRIES)
    return False


def surroundings() -> dict[str, Any]:
    """What a number was made with and on: `commit`, `versions` and `hardware`."""
    return {"commit": commit(), "versions": versions(), "hardware": hardware()}


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions that decide a result."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):  # no triton without a GPU
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Device, cores and threads: bitwise claims hold at equal threads on equal machines."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
