"""How many nodes a job may have, as people write it: `4`, `1-4` or `1,2,4`."""

from __future__ import annotations

import re


def node_range(text: str) -> tuple[int, int]:
    """The fewest and the most.

    Raises:
        ValueError: it has none of these forms.
    """
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    numbers = node_list(text)
    if numbers and numbers[0] > 0 and list(numbers) == sorted(set(numbers)):
        low, high = numbers[0], numbers[-1]
    if not 1 <= low <= high:
        raise ValueError(f"{text}: expected a number such as 4, a range such as 1-4, or a list such as 1,2,4")
    return low, high


def node_list(text: str) -> tuple[int, ...]:
    """The numbers of `1,2,4`; none of what is no list."""
    return tuple(map(int, text.split(","))) if re.fullmatch(r"\d+(,\d+)+", text) else ()
