"""The environment that a job is given: which `ofa` its Python imports, and nothing of a job that submits it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ofa.config import CHECKOUT

OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
OF_A_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS")
"""Variables: beginnings of their names, and those of the same beginnings that are no job's."""


def python_path(code: Path = CHECKOUT) -> str:
    """PYTHONPATH of this process with a folder of code before all else; the same again where it is already."""
    paths = [str(code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(paths))


@contextlib.contextmanager
def outside_of_jobs(**own: str) -> Iterator[None]:
    """Hide what Slurm has told this process of a job that it is in itself: the new one would take it for its own.

    Args:
        own: variables that the new one is told, and that are taken back here too.
    """
    foreign = [name for name in os.environ if name.startswith(OF_A_JOB) and name not in OF_A_CLUSTER]
    before = {name: os.environ.get(name) for name in (*foreign, *own)}
    for name in foreign:
        del os.environ[name]
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
