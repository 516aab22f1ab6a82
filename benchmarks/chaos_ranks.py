"""The ranks of one start as real processes, and what can be seen of their run from outside.

In: a command line and a run folder. Out: a group of processes that can be hurt, and the run's own files, read while it
goes on: what its first rank printed, its last metrics line, and the hidden folders in which something is being written.
Nothing is asked of the processes, so that a run under chaos is the run that users have.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from ofa.files import beside
from ofa.metrics import read_metrics
from ofa.run_folder import RunFolder
from tests.processes import CHECKOUT, start_ranks

PROGRAM = CHECKOUT / "launch" / "pretrain.py"

LOOK = 0.002
"""Seconds between two looks."""

BEGUN = re.compile(r": step (\d+) of \d+$", re.MULTILINE)
"""The line by which a run says at which step it begins, after it has cut its metrics back to there."""

Leftovers = frozenset[tuple[str, int, int]]


class Ranks:
    """The processes of one start; all are dead when the context ends, however it ends."""

    def __init__(self, command: list[str], number: int, cwd: Path, run_dir: Path):
        self.folder = RunFolder(run_dir)
        self._outputs = [run_dir.with_name(f"{run_dir.name}-rank-{rank}.out") for rank in range(number)]
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        self._old_saves, self._old_exports = self._saves(), self._exports()
        self.processes: list[subprocess.Popen[bytes]] = start_ranks(PROGRAM, *command, cwd=cwd, outputs=self._outputs)
        self.since = time.monotonic()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.kill()

    def kill(self) -> None:
        """SIGKILL to whatever is left of the group, and wait for its end."""
        if self.processes[0].returncode is None:  # not yet waited for, so its number, the group's, is still its own
            os.killpg(self.processes[0].pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def all_there(self) -> bool:
        """Whether no rank has ended."""
        return not any(map(has_ended, self.processes))

    def ended(self) -> bool:
        """Whether no rank is left."""
        return all(map(has_ended, self.processes))

    def wait(self, seconds: float) -> bool:
        """Whether all ranks end by themselves within some seconds."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until:
                return False
            time.sleep(LOOK)
        return True

    def statuses(self) -> list[int]:
        """Exit statuses by rank, once all have ended; a signal counts below zero."""
        return [process.wait() for process in self.processes]

    def said(self) -> str:
        """What the ranks printed."""
        return "\n".join(path.read_text(errors="replace") for path in self._outputs)

    def begun(self) -> int | None:
        """The step at which this start began; None as long as it has not."""
        found = BEGUN.search(self._outputs[0].read_text(errors="replace"))
        return int(found[1]) if found else None

    def reached(self) -> int:
        """The last step that has a metrics line; -1 if none has, or if this start has not cut them back yet."""
        if self.begun() is None:
            return -1
        return last_step(self.folder)

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written, or has been left half-written by this start."""
        return bool(self._saves() - self._old_saves)

    def is_exporting(self) -> bool:
        """The same of the model."""
        return bool(self._exports() - self._old_exports)

    def _saves(self) -> Leftovers:
        return hidden(self.folder.checkpoints, "step-*")

    def _exports(self) -> Leftovers:
        return hidden(self.folder.path, self.folder.model.name)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; it stays to be waited for, so that its number is not given to another one."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def last_step(folder: RunFolder) -> int:
    """The last step that has a metrics line; -1 if there is none."""
    lines = read_metrics(folder.metrics)
    return int(lines[-1]["step"]) if lines else -1


def hidden(folder: Path, name: str) -> Leftovers:
    """Hidden folders in which something of a name is written, told apart from those of the same name that an earlier
    kill has left."""
    found = set()
    for path in folder.glob(beside(Path(name)).name):
        try:
            about = path.stat()
        except FileNotFoundError:  # it has got its name, or is gone
            continue
        found.add((path.name, about.st_ino, about.st_mtime_ns))
    return frozenset(found)
