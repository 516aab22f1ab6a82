"""Bar charts as SVG, written by hand: a drawing library would take longer to import than a small corpus to prepare."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2a6f97", "#d1495b", "#3a7d44", "#edae49", "#7a5195", "#6b7280")
_WIDTH, _ROW, _LEFT, _TOP = 940, 24, 250, 26


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> str:
    """A `data:` URI of horizontal bars, each of a part for every name.

    Args:
        rows: Label and the parts' lengths.
        names: Of the parts; shown where there are several.
    """
    most = max((sum(parts) for _, parts in rows), default=0) or 1
    top = _TOP if len(names) > 1 else 4
    height = top + _ROW * len(rows) + 4
    scale = (_WIDTH - _LEFT - 110) / most
    drawn = [_legend(names)] if len(names) > 1 else []
    for number, (label, parts) in enumerate(rows):
        y, x = top + number * _ROW, float(_LEFT)
        drawn.append(_text(_LEFT - 8, y + 16, label, anchor="end"))
        for colour, part in enumerate(parts):
            fill = COLOURS[colour % len(COLOURS)]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{part * scale:.1f}" height="{_ROW - 7}" fill="{fill}"/>'
            )
            x += part * scale
        drawn.append(_text(x + 6, y + 16, f"{sum(parts):,.0f}"))
    return _uri(height, drawn)


def columns(lengths: Mapping[int, Sequence[float]], names: Sequence[str]) -> str:
    """A `data:` URI of upright bars over powers of two.

    Args:
        lengths: By power of two, a number for every name.
        names: Of the parts.
    """
    height, bottom, top = 240, 210, _TOP if len(names) > 1 else 6
    most = max((sum(parts) for parts in lengths.values()), default=0) or 1
    step = (_WIDTH - 40) / max(1, len(lengths))
    drawn = [_legend(names)] if len(names) > 1 else []
    for number, (power, parts) in enumerate(sorted(lengths.items())):
        x, y = 20 + number * step, float(bottom)
        for colour, part in enumerate(parts):
            tall = part / most * (bottom - top - 14)
            y -= tall
            fill = COLOURS[colour % len(COLOURS)]
            drawn.append(
                f'<rect x="{x + 3:.1f}" y="{y:.1f}" width="{step - 6:.1f}" height="{tall:.1f}" fill="{fill}"/>'
            )
        drawn.append(_text(x + step / 2, y - 3, f"{sum(parts):,.0f}", anchor="middle"))
        drawn.append(_text(x + step / 2, bottom + 16, f"{power:,}", anchor="middle"))
    return _uri(height, drawn)


def _legend(names: Sequence[str]) -> str:
    drawn, x = [], _LEFT
    for colour, name in enumerate(names):
        drawn.append(f'<rect x="{x}" y="6" width="12" height="12" fill="{COLOURS[colour % len(COLOURS)]}"/>')
        drawn.append(_text(x + 17, 17, name))
        x += 34 + 7 * len(name)
    return "".join(drawn)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _uri(height: int, drawn: Sequence[str]) -> str:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="#374151">{"".join(drawn)}</svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
