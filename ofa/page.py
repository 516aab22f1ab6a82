"""The parts of an HTML page that needs nothing else: its style, its frame, tables of facts, pictures inside."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; background: #f3f4f6; margin: 0; }
main { max-width: 1000px; margin: 0 auto; padding: 24px; background: #fff; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 8px; border-bottom: 1px solid #d1d5db; }
p.lead { margin: 4px 0 16px; color: #4b5563; }
.state { display: inline-block; padding: 1px 10px; border-radius: 10px; background: #dcfce7; color: #166534; }
.state.open { background: #fef3c7; color: #92400e; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid #e5e7eb; text-align: right; } th { color: #4b5563; }
th:first-child, td:first-child, .text { text-align: left; } .text { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 8px 0; }
dt { color: #6b7280; } dd { margin: 0; overflow-wrap: anywhere; }
img { width: 100%; height: auto; display: block; } .none { color: #6b7280; font-style: italic; }
code, pre { font: 13px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; background: #f9fafb; padding: 12px; }
p.note { color: #6b7280; font-size: 13px; margin: 4px 0 8px; }
"""


def document(title: str, body: Iterable[str]) -> str:
    """The whole page."""
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{content}\n</main></body></html>\n"
    )


def section(key: str, title: str, content: str) -> str:
    """A part of the page with a heading."""
    return f'<section id="{key}"><h2>{title}</h2>\n{content}\n</section>'


def rows_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[str] = ()) -> str:
    """A table.

    Args:
        words: Columns, by title, of words instead of figures.
    """
    marks = [' class="text"' if title in words else "" for title in head]

    def cells(tag: str, row: Sequence[str]) -> str:
        found = (f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True))
        return "<tr>" + "".join(found) + "</tr>"

    titles, body = cells("th", head), "".join(cells("td", row) for row in rows)
    return f"<table><thead>{titles}</thead><tbody>{body}</tbody></table>"


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and values in two columns."""
    return "<dl>" + "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in pairs) + "</dl>"


def folded(title: str, value: Any) -> str:
    """JSON that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(json.dumps(value, indent=2))}</pre></details>"


def picture(uri: str, description: str) -> str:
    """An image whose bytes are in the page."""
    return f'<img alt="{escape(description)}" src="{uri}">'


def note(text: str) -> str:
    """A line that explains a picture."""
    return f'<p class="note">{escape(text)}</p>'


def none(text: str) -> str:
    """What a section says when it has nothing to show."""
    return f'<p class="none">{escape(text)}</p>'
