"""Slurm's own commands, asked for an answer."""

from __future__ import annotations

import subprocess

from ofa.cluster.errors import SubmitError

PATIENCE = 60.0
"""Seconds that the controller is given to answer."""

NO_SUCH_JOB = "Invalid job id"
"""Slurm forgets jobs some minutes after their end, and refuses to speak of one alone that it has forgotten."""


class SlurmError(SubmitError):
    """A command of Slurm that fails, with its words."""


def ask(*command: str, patience: float = PATIENCE, forgiven: str | None = None) -> str:
    """What a command prints.

    Args:
        command: its words.
        patience: seconds in which it has to answer.
        forgiven: words of an error that is none: what was printed beside it is the answer.

    Raises:
        SlurmError: it fails, or there is none.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {command[0]} here: submit from a login node of a Slurm cluster, or try --cluster local"
        ) from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {patience:.0f} s") from None
    if done.returncode and (forgiven is None or forgiven not in done.stderr):
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"{command[0]} says: {said or f'status {done.returncode}'}")
    return done.stdout


def job_values(job: str, patience: float = PATIENCE) -> dict[str, str]:
    """What Slurm says of a job, by its own words such as JobState; nothing of one that it has forgotten.

    Raises:
        SlurmError: it does not answer.
    """
    shown = ask("scontrol", "show", "job", "-o", job, patience=patience, forgiven=NO_SUCH_JOB)
    pairs = [word.partition("=") for word in shown.split()]
    return {key: value for key, equals, value in pairs if equals}
