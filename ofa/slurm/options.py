"""Further options of sbatch, as they are typed behind `--sbatch`."""

from __future__ import annotations

import re
from typing import Any

from ofa.slurm.errors import SubmitError


def option(text: str) -> tuple[str, Any]:
    """Name and value of `KEY=VALUE`; True for `KEY` alone.

    Raises:
        SubmitError: it has neither form.
    """
    key, equals, value = text.removeprefix("--").partition("=")
    if not re.fullmatch(r"[a-z][a-z-]*", key):
        raise SubmitError(f"--sbatch {text}: expected an option of sbatch, KEY or KEY=VALUE such as reservation=night")
    return key, value if equals else True
