"""How the ranks that decide nothing came to their ends: each says it in its log, and the first looks there when its own
process knows only that another one is gone."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path

from ofa.run_files import read_tail

LINE = re.compile(r"^rank (\d+), start (\d+), ended at (\d+\.\d): (.*)$", re.MULTILINE)

OF_THIS_NODE, OF_OTHERS = 5.0, 60.0
"""Seconds; NFS looks after a minute at the latest (`acregmax`)."""

TAIL = 8 << 10
"""Bytes of each log that are read."""


def say_end(rank: int, restart: int, error: str) -> None:
    """Put into this task's log that its process has ended, and why.

    Args:
        rank: its number.
        restart: how often the job was queued again.
        error: on one line.
    """
    print(f"rank {rank}, start {restart}, ended at {time.time():.1f}: {error}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # no file; a network file system else keeps it on this node for half a minute
        os.fsync(sys.stderr.fileno())


def patience(nodes: int) -> float:
    """Seconds that the first rank waits for the words of another that is gone.

    Args:
        nodes: of the job; on one, both have the same disk. From another they are on the file server at once, and it is
            up to this node when it looks there anew.
    """
    return OF_THIS_NODE if nodes == 1 else OF_OTHERS


def first_end(folder: Path, job: str, ranks: int, restart: int) -> str | None:
    """The other rank that ended first in this start of a job and why, on one line; None: none has said anything.

    Args:
        folder: of the logs.
        job: its number.
        ranks: their number.
        restart: as in `say_end`.
    """
    ends = []
    for rank in range(1, ranks):
        for who, start, when, error in LINE.findall(read_tail(folder / f"{job}_{rank}_log.out", TAIL)):
            if int(start) == restart:
                ends.append((float(when), f"rank {who} ended first: {error}"))
    return min(ends)[1] if ends else None
