"""Slurm's lists of nodes, such as `n[08-11,15],login`, read as `scontrol show hostnames` reads them: that command is
not on every node, and a job must know its nodes before all else."""

from __future__ import annotations

import re
from itertools import product

from ofa.slurm.errors import SubmitError

NODES = re.compile(r"((?:[^\s,\[\]]|\[[^\[\]]+\])+)(?:,|$)")
"""Nodes of one pattern, up to the comma that is in no brackets."""

NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")


def hosts(text: str) -> list[str]:
    """The names of a list, in its order.

    Raises:
        SubmitError: it is none.
    """
    found: list[str] = []
    place = 0
    while place < len(text):
        pattern = NODES.match(text, place)
        if pattern is None:
            raise SubmitError(f"Slurm's list of nodes cannot be read from {text[place:]!r} on: {text}")
        parts = re.split(r"\[([^\[\]]+)\]", pattern[1])  # what is in brackets has odd places
        choices = [_numbers(part, text) if number % 2 else [part] for number, part in enumerate(parts)]
        found += map("".join, product(*choices))
        place = pattern.end()
    return found


def _numbers(text: str, whole: str) -> list[str]:
    """`08-11,15` as they are written, zeros before them included."""
    found: list[str] = []
    for part in text.split(","):
        numbers = NUMBERS.fullmatch(part)
        if numbers is None:
            raise SubmitError(f"Slurm's list of nodes has no numbers in [{text}]: {whole}")
        first, last = numbers[1], numbers[2] or numbers[1]
        if int(last) < int(first):
            raise SubmitError(f"Slurm's list of nodes goes down in [{text}]: {whole}")
        found += [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return found
