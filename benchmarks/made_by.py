"""What a figure is worthless without: the command that made it, the commit, versions and hardware."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.run_folder import surroundings


def made_by(*, threads: int | None = None) -> dict[str, Any]:
    """`command`, `commit`, `versions` and `hardware` of this process, as they stand beside a benchmark's figures.

    Args:
        threads: that the measured work had, where that was another process; None: those of this one.
    """
    found = {"command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]), **surroundings()}
    if threads is not None:
        found["hardware"] = {**found["hardware"], "threads": threads}
    return found


def in_words(found: Mapping[str, Any]) -> str:
    """Device, threads and versions, for the last line of a report."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    threads = found["hardware"]["threads"]
    return f"{found['hardware']['device']}, {threads} thread{'s' if threads > 1 else ''}; {versions}"
