"""The table of runs as lines of text, whole or fitted to the width of a terminal.

Numbers are never shortened. Where a row does not fit, its error stands below it; then its name loses its middle, and
where too little would be left of that, it has a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

NAME, STATE, NUMBERS, ERROR = 0, 1, slice(2, -1), -1
"""Columns of a row."""

GAP = 2
"""Between two columns."""

INDENT = "  "
LEAST_NAME = 24
"""Of a name beside the numbers."""

LEAST_STATE = 8
ERROR_LINES = 3
"""Of an error below its row."""

ELLIPSIS = "..."
"""In place of what does not fit."""


@dataclass(frozen=True)
class Widths:
    """Of the columns of a table, in columns of the terminal."""

    name: int
    state: int
    numbers: tuple[int, ...]
    terminal: int | None
    """None: rows are whole."""

    @property
    def has_own_line(self) -> bool:
        """Whether names stand above the other columns."""
        return self.terminal is not None and self.name + GAP + self.rest > self.terminal

    @property
    def rest(self) -> int:
        """All that is right of a name."""
        return self.state + sum(GAP + number for number in self.numbers)


def fitted(
    head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str], width: int | None
) -> tuple[list[Text], bool]:
    """The lines of a table.

    Args:
        head: the headings.
        rows: as many cells each.
        styles: of each row's state.
        width: of the terminal; None: there is none, and a line is as long as it must be.

    Returns:
        The lines, and whether all that the cells say is in them.
    """
    widest = [max(cell_len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    fits = width is None or sum(widest) + GAP * (len(head) - 1) <= width
    widths = Widths(widest[NAME], widest[STATE], tuple(widest[NUMBERS]), None)
    widths = widths if fits or width is None else _narrowed(widths, width)
    lines = _lines(head, widths, "bold", "bold", head[ERROR] if fits else "")
    for row, style in zip(rows, styles, strict=True):
        lines += _lines(row, widths, "", style, row[ERROR])
    return lines, fits or all(_is_whole(row, widths) for row in rows)


def shortened(text: str, width: int) -> str:
    """A text without its middle, where it is wider than so many columns."""
    if cell_len(text) <= width:
        return text
    first = (width - len(ELLIPSIS)) // 2
    last = width - len(ELLIPSIS) - first
    return set_cell_size(text, first) + ELLIPSIS + set_cell_size(text[::-1], last)[::-1]


def _narrowed(whole: Widths, width: int) -> Widths:
    beside = width - GAP - whole.rest
    if beside >= min(LEAST_NAME, whole.name):
        return Widths(min(whole.name, beside), whole.state, whole.numbers, width)
    state = width - len(INDENT) - (whole.rest - whole.state)
    return Widths(width, max(LEAST_STATE, min(whole.state, state)), whole.numbers, width)


def _lines(row: Sequence[str], widths: Widths, style: str, state_style: str, error: str) -> list[Text]:
    """Of one row."""
    name, state = shortened(row[NAME], widths.name), shortened(row[STATE], widths.state)
    lines = [Text(name, style)] if widths.has_own_line else []
    start = INDENT if widths.has_own_line else _wide(name, widths.name + GAP)
    numbers = "".join(cell.rjust(GAP + width) for cell, width in zip(row[NUMBERS], widths.numbers, strict=True))
    end = f"{numbers}{' ' * GAP}{error}" if widths.terminal is None else numbers
    values = Text(start, style).append(_wide(state, widths.state), state_style).append(end, style)
    values.rstrip()
    lines.append(values)
    if widths.terminal is not None:
        below = _wrapped(error, widths.terminal)
        lines += [Text(line) for line in below[:ERROR_LINES]]
        if len(below) > ERROR_LINES:
            lines[-1].truncate(widths.terminal - len(ELLIPSIS))
            lines[-1].append(ELLIPSIS)
    return lines


def _wrapped(error: str, width: int) -> list[str]:
    """Lines of an error below its row; a word that is longer than a line is cut."""
    room = width - len(2 * INDENT)
    lines: list[str] = []
    for word in error.split():
        if lines and cell_len(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines += chop_cells(word, room)
    return [2 * INDENT + line for line in lines]


def _is_whole(row: Sequence[str], widths: Widths) -> bool:
    fits = cell_len(row[NAME]) <= widths.name and cell_len(row[STATE]) <= widths.state
    return fits and (widths.terminal is None or len(_wrapped(row[ERROR], widths.terminal)) <= ERROR_LINES)


def _wide(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
