"""Being told to stop: signals set a flag, and the loop agrees on it with all ranks where it talks to them anyway."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

LOG = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
ONE_REQUEST = 5.0
"""Seconds within which several signals count as one: launchers send SIGINT and SIGTERM for a single Ctrl-C."""


class StopRequest:
    """Watches this process's signals from `install` to `uninstall`."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether this process was told to stop."""
        return self._since is not None

    def install(self) -> None:
        """Take the signals over; a second request, later than the first by some seconds, ends the process at once."""
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def uninstall(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            LOG.warning("%s: stopping as soon as all ranks know, then saving", signal.Signals(number).name)
        elif time.monotonic() - self._since > ONE_REQUEST:
            raise KeyboardInterrupt
