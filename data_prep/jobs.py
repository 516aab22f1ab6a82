"""The jobs of one array in Slurm's queue, or as processes of this machine: which there are, and their end.

They have a name that is theirs alone, which is noted before they are submitted. So the next run finds those that a
killed one has left at work, and ends them before it does the same; a number, which may be another's by now, would not
tell.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.documents import DataPrepError
from ofa.files import write_bytes
from ofa.slurm.commands import SlurmError, ask, ask_first

NOTE = "at_work.json"
"""Stands in a folder of jobs from before they are submitted until all of them have done their work."""

_END = 300.0
"""Seconds in which jobs end that are told to; Slurm gives them 30 by default, and then kills them."""

_ARRAY = 1000
"""Jobs of an array that Slurm takes where it says nothing else."""


@dataclass(frozen=True)
class Jobs:
    """Those of one array."""

    cluster: str
    """`slurm` or `local`."""

    name: str
    """In Slurm's queue; of local ones the folder, which their command lines hold."""

    host: str
    """Where they were submitted."""

    def at_work(self) -> set[str]:
        """Numbers of those that have not ended.

        Raises:
            SlurmError: Slurm does not answer.
        """
        if self.cluster == "local":
            return {str(pid) for pid in _processes(self.name)}
        own = f"--user={os.getuid()}"
        return set(ask("squeue", "--noheader", "--array", "--format=%i", own, f"--name={self.name}").split())

    def tell_to_end(self) -> None:
        """Send those that have not ended what ends them; says nothing if it cannot."""
        if self.cluster == "local":
            for pid in _processes(self.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # they pass over others
            return
        with contextlib.suppress(SlurmError):
            ask("scancel", f"--user={os.getuid()}", f"--name={self.name}")


def note(folder: Path, cluster: str, prefix: str) -> Jobs:
    """A name for jobs that are about to be submitted.

    Args:
        folder: Of submitit's files.
        cluster: `slurm` or `local`.
        prefix: Of the name in Slurm's queue.
    """
    name = str(folder.absolute()) if cluster == "local" else f"{prefix}-{uuid.uuid4().hex[:12]}"
    jobs = Jobs(cluster, name, platform.node())
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / NOTE, json.dumps(asdict(jobs)).encode())
    return jobs


def end_earlier(folder: Path) -> None:
    """End the jobs that an earlier run has noted in a folder and left at work, and wait until they are gone.

    Raises:
        DataPrepError: they cannot be found from here, or do not end.
    """
    path = folder / NOTE
    if not path.is_file():
        return
    jobs = Jobs(**json.loads(path.read_text()))
    otherwise = f"if none of its jobs runs any more, remove {path} and run again"
    if jobs.cluster == "local" and jobs.host != platform.node():
        raise DataPrepError(f"an earlier run was cut off on {jobs.host}: run there, or {otherwise}")
    try:
        left = jobs.at_work()
    except SlurmError as error:
        raise DataPrepError(f"an earlier run on {jobs.host} was cut off: {error}; {otherwise}") from None
    if left:
        print(f"note: an earlier run was cut off; {len(left)} of its jobs are at work and end now", file=sys.stderr)
    last = time.monotonic() + _END
    while left:
        jobs.tell_to_end()
        if time.monotonic() > last:
            raise DataPrepError(f"jobs of an earlier run do not end: {', '.join(sorted(left))}; {otherwise}")
        time.sleep(1)
        left = jobs.at_work()
    path.unlink()


def largest_array() -> int:
    """How many jobs Slurm takes as one array.

    Raises:
        SlurmError: it does not answer; with what to do.
    """
    said = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask_first("scontrol", "show", "config"), re.MULTILINE)
    return _ARRAY if said is None else max(1, int(said[1]))


def _processes(folder: str) -> list[int]:
    """Those of submitit's local jobs in a folder; what starts them again comes first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_bytes().decode(errors="replace").split("\0")
            if folder in words and any(word.startswith("submitit.") for word in words):
                found.append(("submitit.local._local" not in words, int(path.parent.name)))
    return [pid for _, pid in sorted(found)]
