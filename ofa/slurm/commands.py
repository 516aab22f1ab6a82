"""Slurm's own commands, asked for an answer."""

from __future__ import annotations

import re
import subprocess

from ofa.slurm.errors import SubmitError

PATIENCE = 60.0
"""Seconds that the controller is given to answer."""

NO_SUCH_JOB = "Invalid job id"
"""Slurm forgets jobs some minutes after their end, and refuses to speak of one alone that it has forgotten."""

UNREACHABLE = ("Unable to contact slurm controller", "Could not establish a configuration source")
"""Words of commands that are installed and find no controller."""

WITHOUT = "submit from a login node of a Slurm cluster, or try --cluster local (of a sweep: slurm.cluster=local)"
"""What to do where no Slurm answers."""


class SlurmError(SubmitError):
    """A command of Slurm that fails, with its words."""


class NoSlurm(SlurmError):
    """Its commands are not there, or no controller answers them."""


def ask(*command: str, patience: float = PATIENCE, forgiven: str | None = None) -> str:
    """What a command prints.

    Args:
        command: its words.
        patience: seconds in which it has to answer.
        forgiven: words of an error that is none: what was printed beside it is the answer.

    Raises:
        SlurmError: it fails.
        NoSlurm: there is none, or nobody answers it.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except FileNotFoundError:
        raise NoSlurm(f"there is no {command[0]} here") from None
    except OSError as error:
        raise NoSlurm(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} did not answer within {patience:.0f} s") from None
    if done.returncode and (forgiven is None or forgiven not in done.stderr):
        words = said(command[0], done.stderr or done.stdout or f"status {done.returncode}")
        raise (NoSlurm if any(one in words for one in UNREACHABLE) else SlurmError)(words)
    return done.stdout


def ask_first(*command: str) -> str:
    """As `ask`, where a submission begins: without a Slurm the error says what to do instead."""
    try:
        return ask(*command)
    except NoSlurm as error:
        raise NoSlurm(f"{error}; {WITHOUT}") from None


def said(command: str, text: str) -> str:
    """What a command of Slurm has printed in lines, which may begin with its name: `sbatch says: this; that`."""
    name = re.compile(rf"(?:{re.escape(command)}: )?(?:error: |fatal: )?")
    lines = [name.sub("", line.strip(), count=1) for line in text.splitlines()]
    words = "; ".join(dict.fromkeys(filter(None, lines)))
    return f"{command} says: {words or 'no word'}"


def job_values(job: str, patience: float = PATIENCE) -> dict[str, str]:
    """What Slurm says of a job, by its own words such as JobState; nothing of one that it has forgotten.

    Raises:
        SlurmError: it does not answer.
    """
    shown = ask("scontrol", "show", "job", "-o", job, patience=patience, forgiven=NO_SUCH_JOB)
    pairs = [word.partition("=") for word in shown.split()]
    return {key: value for key, equals, value in pairs if equals}
