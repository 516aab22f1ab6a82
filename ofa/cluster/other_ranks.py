"""How the ranks that decide nothing came to their ends: each says it in its log, and the first looks there when its own
process knows only that another one is gone."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from ofa.run_files import read_tail

LINE = re.compile(r"^rank (\d+), start (\d+), ended at (\d+\.\d): (.*)$", re.MULTILINE)

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
