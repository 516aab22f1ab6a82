"""Which commit the code is of, in a git checkout and in the copy of one that jobs run."""

from __future__ import annotations

import subprocess

from ofa.config import CHECKOUT

COMMIT_FILE = ".commit"
"""In a copy of a checkout's code: what `commit` said there."""


def commit() -> str | None:
    """The checkout's commit, marked if files differ from it; None outside a git checkout."""
    recorded = CHECKOUT / COMMIT_FILE
    if recorded.is_file():  # asked here, git would tell of a checkout around the copy
        return recorded.read_text(encoding="utf-8").strip()
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
