"""The heartbeats of a run's ranks, on the board: each counts up a note of its own and reads those of others.

Every call of the store is made by a thread that does nothing else, on a connection of its own: where the process of
rank 0 is frozen, a call never returns, whatever time-out it was given. Who wants to know something looks at what this
thread read last, and sees that rank 0 is silent by its not moving.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

# documented there
from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]

from ofa import dist
from ofa.board import Board

LEFT = "left"
"""In place of a count: this rank needs no board any more."""

BOUND = 2.0
"""Seconds that a caller waits for a note to be delivered."""


class Heartbeat:
    """This rank's beat, and what was last read from the board."""

    def __init__(self, board: Board, every: float):
        """
        Args:
            board: a connection that nobody else uses.
            every: seconds between two beats.
        """
        self.heard: dict[int, str] = {}
        """The last beat of each rank that is listened to."""
        self.failure: str | None = None
        """The note that says why the run ends, if there is one."""
        self.unreachable = False
        """The process of rank 0, which serves the board, is gone."""
        self._board = board
        self._every = every
        self._listens_to = [0]
        if dist.rank() == 0:
            self.listen_to_all()
        self._report: str | None = None
        self._reported, self._awake, self._leaving = (threading.Event() for _ in range(3))
        board.post(_name(dist.rank()), "0")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; every rank must have been made."""
        self._thread.start()

    def listen_to_all(self) -> None:
        """Hear every other rank and not rank 0 alone, which is enough as long as rank 0 hears them."""
        self._listens_to = [rank for rank in range(dist.world_size()) if rank != dist.rank()]

    def report(self, failure: str) -> None:
        """Say why the run ends, unless another rank did before; waits until it stands there, if rank 0 answers."""
        if self.unreachable:
            return
        self._report = failure
        self._awake.set()
        self._reported.wait(BOUND)

    def refresh(self) -> None:
        """Look again at once."""
        self._awake.set()

    def leave(self) -> None:
        """Say that this rank needs the board no more, if rank 0 answers, and stop."""
        self._leaving.set()
        self._awake.set()
        self._thread.join(BOUND)

    def _run(self) -> None:
        count = 0
        try:
            while not self._leaving.is_set():
                self._awake.clear()
                count += 1
                self._exchange(str(count))
                self._awake.wait(self._every)
            self._board.post(_name(dist.rank()), LEFT)
        except DistError:
            self.unreachable = True

    def _exchange(self, beat: str) -> None:
        self._board.post(_name(dist.rank()), beat)
        if self._report is not None and not self._reported.is_set():
            self._board.post_first("failure", self._report)
            self._reported.set()
        self.failure = self._board.read("failure")
        listens_to = self._listens_to
        beats = self._board.read_all([_name(rank) for rank in listens_to])
        self.heard = dict(zip(listens_to, beats, strict=True))


class Silence:
    """For how long each beat has not moved, counted in looks at it.

    Time in which this process itself did not run (suspended with its job, or with its machine) is no silence of the
    others, so a look never counts for more than `longest`.
    """

    def __init__(self, longest: float):
        self._longest = longest
        self._seen: dict[int, str] = {}
        self._silent: dict[int, float] = {}
        self._last: float | None = None

    def look(self, beats: Mapping[int, str], now: float) -> dict[int, float]:
        """Seconds by rank, for those that have not left.

        Args:
            beats: the last one of each rank.
            now: seconds of a clock that never goes back.
        """
        passed = 0.0 if self._last is None else min(now - self._last, self._longest)
        self._last = now
        for rank, beat in beats.items():
            self._silent[rank] = self._silent[rank] + passed if self._seen.get(rank) == beat else 0.0
            self._seen[rank] = beat
        return {rank: self._silent[rank] for rank, beat in beats.items() if beat != LEFT}


def _name(rank: int) -> str:
    return f"beat {rank}"
