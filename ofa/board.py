"""A board on which ranks leave short notes for each other, beside the collectives and never in their order.

It is a key-value store of torch.distributed, served by rank 0's process. Reading a note that is not there returns at
once, so that a rank can look at every step without waiting for anyone. The process group's own store was left aside: it
is private to torch, and launchers share it.
"""

from __future__ import annotations

import os
from datetime import timedelta

# documented there
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ofa import dist

CONNECT = timedelta(minutes=5)
"""How long a rank tries to reach the board."""


class Board:
    """Notes by name; the last one written under a name holds."""

    def __init__(self, store: TCPStore):
        self._store = store

    def post(self, name: str, note: str) -> None:
        """Write a note; every rank that looks after this has returned finds it.

        Raises:
            RuntimeError: the process of rank 0 is gone.
        """
        self._store.set(name, note)
        self._store.check([name])  # the server answers in order, so it has the note when it answers this

    def read(self, name: str) -> str | None:
        """The note under a name; None if there is none.

        Raises:
            RuntimeError: the process of rank 0 is gone.
        """
        return self._store.get(name).decode() if self._store.check([name]) else None

    def post_first(self, name: str, note: str) -> None:
        """Write a note unless there is one under the name.

        Raises:
            RuntimeError: the process of rank 0 is gone.
        """
        self._store.compare_set(name, "", note)

    def read_all(self, names: list[str]) -> list[str]:
        """The notes under names that all have one, in one exchange.

        Raises:
            RuntimeError: the process of rank 0 is gone.
        """
        return [note.decode() for note in self._store.multi_get(names)]

    def another(self) -> Board:
        """A connection of its own to the same notes, for another thread: calls on one connection wait for each
        other."""
        return Board(TCPStore(self._store.host, self._store.port, is_master=False, timeout=CONNECT))


def open_board() -> Board | None:
    """The board of this run's ranks (a collective call); None for one rank, which has nobody to tell."""
    if dist.world_size() == 1:
        return None
    host = os.environ["MASTER_ADDR"]
    if dist.rank() == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=CONNECT)
        dist.from_rank_zero(store.port)
    else:
        store = TCPStore(host, dist.from_rank_zero(None), is_master=False, timeout=CONNECT)
    return Board(store)
