"""Processes of one machine: which one a job is, told apart from a later one of the same number."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalProcess:
    """One process of one machine."""

    host: str
    pid: int

    born: int
    """When it began, in the kernel's ticks since the machine did; -1: it was gone before anybody looked."""

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as this machine can tell: one of another machine is taken for dead."""
        return self.host == socket.gethostname() and self.born >= 0 and _born(self.pid) == self.born

    def as_json(self) -> dict[str, str | int]:
        """For `local_process`."""
        return asdict(self)


def process_here(pid: int) -> LocalProcess:
    """The process of this machine that has this number now."""
    return LocalProcess(socket.gethostname(), pid, _born(pid))


def local_process(value: object) -> LocalProcess | None:
    """What `as_json` gave; None: anything else."""
    if isinstance(value, dict):
        host, pid, born = (value.get(key) for key in ("host", "pid", "born"))
        if isinstance(host, str) and isinstance(pid, int) and isinstance(born, int):
            return LocalProcess(host, pid, born)
    return None


def _born(pid: int) -> int:
    """-1: there is none, or nothing but its exit status is left of it."""
    with contextlib.suppress(OSError):
        # proc(5): after the name, which may hold anything, the state is the first field and the start the twentieth
        fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    return -1
