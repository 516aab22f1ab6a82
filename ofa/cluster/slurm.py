"""Slurm's own commands, asked for an answer."""

from __future__ import annotations

import subprocess

from ofa.cluster.errors import SubmitError

PATIENCE = 60.0
"""Seconds that the controller is given to answer."""


class SlurmError(SubmitError):
    """A command of Slurm that fails, with its words."""


def ask(*command: str) -> str:
    """What a command prints.

    Raises:
        SlurmError: it fails, or there is none.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {command[0]} here: submit from a login node of a Slurm cluster, or try --cluster local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {PATIENCE:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"{command[0]} says: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout
