"""What a task says in the log of its job."""

from __future__ import annotations

import sys


def say(words: str) -> None:
    """At once: the task may be killed in the next moment."""
    print(words, file=sys.stderr, flush=True)
