"""The process that does the work inside a task, watched from outside it: its signals, its last words, its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

TAIL = 200
"""Lines of stderr that are kept: a deep traceback whole."""

TRACEBACK = "Traceback (most recent call last)"
EXCEPTION = re.compile(r"(?:\[rank\d+\]: ?)?[A-Za-z_][\w.]*(?:: .*)?")
"""The line that ends a traceback: a class, and its words; torch puts the rank before it."""

WARNING = re.compile(r"(?:\[rank\d+\]: ?)?\[W|\S*Warning: |.*: \w*Warning: |warnings\.warn\(")
"""Lines that libraries write at the end of a process, whatever its reason."""

STDERR = 2
AFTER_THE_END = 5.0
"""Seconds in which the last lines come in; what the process has left behind may hold its stderr open for good."""


class Child:
    """A process whose stderr is passed on, and whose end is kept."""

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]):
        """Start it."""
        self._lines: deque[str] = deque(maxlen=TAIL)
        self._process = subprocess.Popen(
            list(command), cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read, name="stderr", daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Its exit status, negative if a signal ended it; None while it runs."""
        status = self._process.poll()
        if status is not None:
            self._reader.join(AFTER_THE_END)
        return status

    def send(self, number: int) -> None:
        """Pass a signal on."""
        self._process.send_signal(number)

    def has_said(self, words: str) -> bool:
        """Whether a line of its last ones begins so."""
        return any(line.startswith(words) for line in self._lines)

    def error(self, status: int) -> str:
        """Why it ended, on one line: its last error line, else its last exception, else its last words, else the
        signal."""
        lines = [line for line in self._lines if line.strip()]
        said = [line for line in lines if line.startswith("error:")]
        plain = [line for line in lines if not WARNING.match(line.strip())]
        words = [line.strip() for line in (said or _exceptions(lines) or plain or lines)[-1:]]
        if status >= 0:
            return words[0] if words else f"exit status {status}"
        by = f"ended by {signal_name(-status)}"
        return f"{by}; last words: {words[0]}" if words else by

    def _read(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        rest = b""
        while part := os.read(pipe.fileno(), 1 << 16):
            with contextlib.suppress(OSError):  # a full disk under the log is no reason to stop
                os.write(STDERR, part)
            *lines, rest = re.split(rb"[\r\n]", rest + part)
            self._lines.extend(line.decode(errors="replace").rstrip() for line in lines)
        self._lines.append(rest.decode(errors="replace").rstrip())


def _exceptions(lines: Sequence[str]) -> list[str]:
    """The line of each traceback that names the exception: the first that is not indented, as its own lines are."""
    found = []
    inside = False
    for line in lines:
        if TRACEBACK in line:
            inside = True
        elif inside and EXCEPTION.fullmatch(line):
            found.append(line)
            inside = False
    return found


def signal_name(number: int) -> str:
    """`SIGUSR2`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
