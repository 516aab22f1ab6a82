"""Files that several processes of several machines change: one at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ofa.files import NO_LOCKS


@contextmanager
def exclusive(path: Path) -> Iterator[BinaryIO]:
    """A file, made if it is not there, to be read and appended to by nobody else meanwhile who opens it so.

    A file system without locks keeps none: there a run is refused, with words (`ofa.files.try_lock`).
    """
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield file
