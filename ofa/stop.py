"""Stopping a run: who may ask for it, and how all ranks agree on the step after which they save and end.

Asked by a signal to any rank, by a file in the run folder, or by a time limit. A collective at every step would be the
simplest agreement, and would make every step of every run pay for what happens once; a flag in the sums of the metrics
lines would be free, and late where lines are rare. Here a rank that was asked says so on the board, and rank 0, which
alone decides, posts a step that lies `AHEAD` of its own. No rank has passed that step when the note appears: to finish
a step each needs rank 0's gradients of it, and rank 0 posted before it gave them. (On a GPU a rank may issue work
without waiting for it; but every step ends with a look at its gradient norm, which waits.)
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from ofa import dist
from ofa.board import Board

LOG = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
ONE_REQUEST = 5.0
"""Seconds within which several signals count as one: launchers send SIGINT and SIGTERM for a single Ctrl-C."""

STDERR = 2
"""Written to directly: the main thread may hold the locks of sys.stderr."""

AT_ONCE = b"asked to stop again: ending at once, without saving; what was saved before stays\n"

INTERRUPTED = 130
"""Exit status of a process that was asked a second time."""

AHEAD = 1
"""Steps between rank 0's decision and the stop."""

BETWEEN_LOOKS = 1.0
"""Seconds between two looks for the stop file, which may lie on a slow shared disk."""


class StopRequest:
    """Why this process is to stop, if it is; signals are watched from `install` to `uninstall`."""

    def __init__(self, file: Path, time_limit: float | None = None):
        """
        Args:
            file: its appearance asks to stop; looked for by rank 0.
            time_limit: seconds from now after which rank 0 asks to stop.
        """
        self._file = file
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._next_look = 0.0
        self._signal: str | None = None
        self._before: dict[signal.Signals, object] = {}
        self._second: SecondSignal | None = None

    def install(self) -> None:
        """Take the signals over; a second request, later than the first by some seconds, ends the process at once."""
        self._second = SecondSignal()
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def uninstall(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
        if self._second is not None:
            self._second.close()
            self._second = None

    def reason(self) -> str | None:
        """Who asked; None if nobody did."""
        now = time.monotonic()
        if self._signal is not None:
            return f"{self._signal} to rank {dist.rank()}"
        if dist.rank() != 0:
            return None
        if self._deadline is not None and now >= self._deadline:
            return "the time limit"
        if now >= self._next_look:
            self._next_look = now + BETWEEN_LOOKS
            if self._file.exists():
                return f"the file {self._file}"
        return None

    def done(self) -> None:
        """The run was saved: its stop file has served (rank 0)."""
        if dist.rank() == 0:
            self._file.unlink(missing_ok=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number).name
            LOG.warning("%s: stopping as soon as all ranks know, then saving", self._signal)


class SecondSignal:
    """Ends the process at once when it is asked again some seconds after it was asked first.

    A handler of Python's runs between two of its instructions: never, while the main thread waits in a collective for a
    rank that hangs, which is when people ask again. So the numbers of signals go through a pipe to a thread. Ending
    there leaves on disk what a kill would: nothing half-written under a final name.
    """

    def __init__(self):
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=_listen, args=(reading,), name="second signal", daemon=True).start()

    def close(self) -> None:
        """Listen no longer."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writing)


def _listen(reading: int) -> None:
    first = None
    while number := os.read(reading, 1):
        if number[0] not in SIGNALS:
            continue
        now = time.monotonic()
        if first is not None and now - first > ONE_REQUEST and _ends_at_once(number[0]):
            os.write(STDERR, AT_ONCE)
            os._exit(INTERRUPTED)
        first = now if first is None else first
    os.close(reading)


def _ends_at_once(number: int) -> bool:
    """Whether a second request does. Slurm sends SIGTERM as a grace begins and again as it ends, some seconds before
    SIGKILL, in which the run may still have saved; people press Ctrl-C."""
    return number == signal.SIGINT or "SLURM_JOB_ID" not in os.environ


class StopAgreement:
    """The step after which all ranks stop."""

    def __init__(self, request: StopRequest, board: Board | None):
        """
        Args:
            request: of this rank.
            board: of all ranks; None if there is one rank.
        """
        self._request = request
        self._board = board
        self._told = False
        self._last: int | None = None

    def is_due(self, step: int) -> bool:
        """Whether to save and end with `step` updates applied: the same on every rank. Ask after every step."""
        if self._last is None:
            self._last = self._agreed(step)
        return self._last is not None and step >= self._last

    def _agreed(self, step: int) -> int | None:
        reason = self._request.reason()
        if self._board is None:
            return None if reason is None else self._decided(step, reason)
        if dist.rank() != 0:
            if reason is not None and not self._told:
                self._board.post("stop wanted", reason)
                self._told = True
            last = self._board.read("stop after")
            return None if last is None else int(last)
        reason = reason or self._board.read("stop wanted")
        if reason is None:
            return None
        self._board.post("stop after", str(step + AHEAD))
        return self._decided(step + AHEAD, reason)

    def _decided(self, last: int, reason: str) -> int:
        LOG.warning("%s: saving after step %d and stopping", reason, last)
        return last
