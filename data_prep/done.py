"""Calls that are done already: each leaves a file that says so, by which a run that was killed does what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_LEFT_BY: dict[Any, Callable[..., Path]] = {}


def leaves(file: Callable[..., Path]) -> Callable[[FunctionT], FunctionT]:
    """A decorator: the file, by a function of the same arguments, is there once the call is done."""

    def note(function: FunctionT) -> FunctionT:
        _LEFT_BY[function] = file
        return function

    return note


def is_done(function: Callable[..., Any], call: tuple[Any, ...]) -> bool:
    """Whether a call need not be made; functions that leave nothing look themselves."""
    left = _LEFT_BY.get(function)
    return left is not None and left(*call).is_file()


class Count:
    """How many calls of a step are done, those of an earlier run from the beginning."""

    def __init__(self, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], report: Callable[[int, int], None]):
        """
        Args:
            calls: Functions and their arguments.
            report: Told how many are done, of how many.
        """
        self._kept = sum(is_done(*call) for call in calls)
        self._seen, self._total, self._report = 0, len(calls), report
        report(self._kept, self._total)

    def one_more(self) -> None:
        """Another result is there."""
        self._seen += 1
        if self._seen > self._kept:
            self._report(self._seen, self._total)
