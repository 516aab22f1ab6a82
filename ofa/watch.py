"""The watch over the ranks of a run: when one dies or hangs, the others end too and say which it was.

A dead rank breaks its connections, and the next collective of its neighbours fails with words that name nobody; a
frozen one breaks nothing, and they wait in a collective for as long as the backend's time-out is. So each rank beats
(`ofa.heartbeat`), rank 0 listens to everyone and everyone to rank 0, and a thread beside the training, the detector,
judges what is heard:

  * a beat that has not moved for `engine.patience`: that rank hangs;
  * one that has not moved for some seconds while a collective has failed here: that rank is gone;
  * a board that cannot be reached: rank 0 is gone, whose process serves it;
  * a failure on the board: another rank has found one of these, or ends with an error of its own.

It then prints one line and ends the process, since the main thread may hang in a collective for good. A rank that only
computes for long beats on. Collectives and device reads are left alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NoReturn

# documented there
from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]

from ofa import dist
from ofa.board import Board
from ofa.heartbeat import LEFT, Heartbeat, Silence

LOG = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two beats; less where patience is short, so that some are always missed before anyone is named."""

GONE = 5.0
"""Seconds of silence that tell who is gone, once a collective has failed."""

UNKNOWN = 20.0
"""Seconds after which a failed collective is taken for an error of its own, as everyone is there."""

GRACE = 2.0
"""Seconds in which a rank may end in its own way after another's error, as all ranks do where they agreed on it."""

START = 5
"""How many times the patience ranks get to come together."""

BETWEEN_LOOKS = 0.1
"""Seconds between two looks whether they have left."""

LINGER = 30.0
"""Seconds at most that rank 0 serves the board to others after its own end."""

STDERR = 2
"""Written to directly: the main thread may hold the locks of sys.stderr and of logging."""

AGAIN = "start the same command again, it continues from the last checkpoint"

BROKEN = re.compile(r"gloo|nccl|connection (was )?(likely )?(closed|reset|refused)|broken pipe", re.IGNORECASE)
"""Words of a collective that failed because of another rank."""


@dataclass(frozen=True)
class Failure:
    """Why a run ends."""

    rank: int
    what: str
    """What became of this rank: the end of a sentence."""
    is_error: bool = False
    """It said so itself."""


@contextlib.contextmanager
def together(patience: float | None) -> Iterator[None]:
    """Around the start of a run, before any rank can be watched: ends the process if not all ranks come.

    Args:
        patience: as that of `Watch`. Ranks get `START` times as long, because a slow disk gives them their programs one
            after the other.

    Raises:
        ConnectionError: another rank came and went.
    """
    bound = None if patience is None or dist.world_size() == 1 else START * patience
    timer = None if bound is None else threading.Timer(bound, _end_start, [bound])
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    except RuntimeError as error:
        if not is_broken_connection(error):
            raise
        raise ConnectionError(f"another rank ended while this one was starting: {AGAIN}") from error
    finally:
        if timer is not None:
            timer.cancel()


def _end_start(seconds: float) -> None:
    line = (
        f"error: {dist.world_size()} ranks did not all come within {seconds:.0f} s (engine.patience times {START}): one"
    )
    line += f" ended while it was starting, or was never started; {AGAIN}\n"
    with contextlib.suppress(OSError):  # nobody reads any more
        os.write(STDERR, line.encode())
    os._exit(1)


class Watch:
    """The watch of one rank; does nothing where there is no other."""

    def __init__(self, board: Board | None, patience: float | None):
        """Begin to watch (a collective call).

        Args:
            board: of all ranks; None if there is one rank.
            patience: seconds of silence after which a rank is taken to hang; None: never.
        """
        self._served = board  # by rank 0, for as long as this object lives
        if board is None:
            return
        self._patience = patience
        every = BEAT if patience is None else min(BEAT, patience / 6)
        self._every = every
        self._silence = Silence(longest=2 * every)
        self._lost, self._out, self._over = (threading.Event() for _ in range(3))
        self._heartbeat = Heartbeat(board.another(), every)
        self._who = dist.gather_objects(f"host {socket.gethostname()}, pid {os.getpid()}")
        self._heartbeat.start()
        self._detector = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._detector.start()

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error, before it goes.

        Where the error is a broken connection, another rank is the reason: this waits until it is known which, and
        then ends the process with one line that names it.
        """
        if self._served is None or isinstance(error, SystemExit):  # ranks agree on an exit
            return
        if is_broken_connection(error):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it to the ranks that a dead one leaves
            self._heartbeat.listen_to_all()
            self._lost.set()
            self._out.set()
            self._detector.join(UNKNOWN)
        self._over.set()
        self._out.set()
        self._detector.join()
        self._heartbeat.report(
            _written(Failure(dist.rank(), f"ended with an error: {_described(error)}", is_error=True))
        )

    def close(self) -> None:
        """End the watch on this rank; rank 0 waits for the others, because it serves the board to them."""
        if self._served is None:
            return
        self._over.set()
        self._out.set()
        self._detector.join()
        self._leave()

    def _watch(self) -> None:
        """What the detector does, until the watch is over or the process."""
        while not self._over.wait(self._every):
            failure = self._failure()
            if failure is None:
                continue
            if failure.is_error:
                self._out.wait(GRACE)
            if not self._over.is_set():
                self._end(failure)

    def _failure(self) -> Failure | None:
        if self._heartbeat.failure is not None:
            return _read(self._heartbeat.failure)
        if self._heartbeat.unreachable:
            return Failure(0, f"is gone: {AGAIN}")
        silent = self._silent()
        if not silent:
            return None
        first, *more = sorted(silent)
        also = f", as are {len(more)} others" if more else ""
        what = "is gone" if self._lost.is_set() else f"hangs, silent for {silent[first]:.0f} s"
        return Failure(first, f"{what}{also}: {AGAIN}")

    def _silent(self) -> dict[int, float]:
        """Seconds of silence of those who have been silent for too long."""
        bounds = [self._patience, GONE if self._lost.is_set() else None]
        longest = min((bound for bound in bounds if bound is not None), default=float("inf"))
        seconds = self._silence.look(self._heartbeat.heard, time.monotonic())
        return {rank: silent for rank, silent in seconds.items() if silent >= longest}

    def _end(self, failure: Failure) -> NoReturn:
        """Say it and end this process, from the detector: the main thread may hang."""
        last = threading.Timer(2 * LINGER, os._exit, [1])  # should a log file hang too
        last.daemon = True
        last.start()
        line = f"error: rank {failure.rank} ({self._who[failure.rank]}) {failure.what}"
        cursor = "\033[?25h" if os.isatty(STDERR) else ""  # which a progress bar hides
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(STDERR, f"{cursor}{line}\n".encode())
        if self._heartbeat.failure is None and failure.rank != 0:  # which serves the board
            self._heartbeat.report(_written(failure))
        LOG.debug(line)
        self._leave()
        os._exit(1)

    def _leave(self) -> None:
        deadline = time.monotonic() + LINGER
        self._lost.set()  # those who are gone by now need no board
        while dist.rank() == 0 and time.monotonic() < deadline and not self._all_have_left():
            self._heartbeat.refresh()
            time.sleep(BETWEEN_LOOKS)
        self._heartbeat.leave()

    def _all_have_left(self) -> bool:
        silent, heard = self._silent(), self._heartbeat.heard
        others = range(1, dist.world_size())
        return all(heard.get(rank) == LEFT or rank in silent for rank in others)


def is_broken_connection(error: BaseException) -> bool:
    """Whether an error is that of a collective, or of the board, that lost another rank."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and BROKEN.search(str(error)) is not None)


def _described(error: BaseException) -> str:
    """On one line, with the class of those that users do not cause."""
    words = " ".join(str(error).split())
    if words and isinstance(error, ValueError | OSError):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _written(failure: Failure) -> str:
    return json.dumps(asdict(failure))


def _read(note: str) -> Failure:
    return Failure(**json.loads(note))
