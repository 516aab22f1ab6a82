"""A command run to its end, and what it and its processes took: wall and CPU seconds, peak memory.

In: a command line. Out: its figures. Memory is looked at while the command runs, process by process, because the
kernel's own sums tell of the largest process only, and a main process may hide what its workers grow by.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WATCH = 0.02
"""Seconds between looks at the memory of a command."""


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    seconds: float
    cpu_seconds: float
    """Of all its processes."""
    main_bytes: int
    """Most memory that was resident for its main process."""
    worker_bytes: int
    """The same for the largest of its workers."""


def watched(command: list[str], environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end, in this environment with some values changed.

    Raises:
        SystemExit: it failed; with what it said.
    """
    main_bytes = worker_bytes = 0
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=said, stderr=said)
        ended = 0
        while not ended:
            time.sleep(WATCH)
            main_bytes = max(main_bytes, high_water(process.pid))
            worker_bytes = max([worker_bytes, *map(high_water, children(process.pid))])
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{said.read()}")
    return Ran(seconds, used.ru_utime + used.ru_stime, main_bytes, worker_bytes)


def high_water(process: int) -> int:
    """Most bytes that have been resident for a process so far; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def children(process: int) -> list[int]:
    """Processes that a process has started and that are still there."""
    try:
        return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))
    except OSError:
        return []
