"""A verification as text: the counts of every scoped tensor, the three sparsities, what is left of a structure, and
what is wrong.

Takes what `ofa.export.verify` found; gives plain text for a terminal or a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ofa.data.shards import ShardState
from ofa.export.verify import Row, Verification
from ofa.tables import table

SHOWN_PROBLEMS = 100


def verification_table(found: Verification) -> str:
    """All that was counted, then notes, then either `ok` or the problems."""
    parts = [_tensor_table(found.rows), ""]
    names = {"encoder_sparsity": "encoder", "scope_sparsity": "scope", "model_sparsity": "model"}
    parts += [f"{names[key]} zeros: {value:.4%}" for key, value in found.sparsities.items()]
    parts += ["", found.units.in_words()] if found.units else []
    parts += found.notes
    if not found.problems:
        return "\n".join([*parts, f"ok: {found.folder} is what it says it is"])
    shown = [(problem.kind, problem.where, problem.what) for problem in found.problems[:SHOWN_PROBLEMS]]
    hidden = len(found.problems) - len(shown)
    parts += ["", problem_table(shown)]
    number = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
    return "\n".join([*parts, number + (f", {hidden} not shown" if hidden else "")])


def _tensor_table(rows: Sequence[Row]) -> str:
    """What was counted in each scoped tensor; a line where no zero was, and none was expected."""
    if rows and not any(row.count.zeros or row.surplus for row in rows):
        return f"no zero in any of {len(rows)} scoped tensors"
    cells = [
        (
            row.name,
            "x".join(map(str, row.count.shape)),
            f"{row.count.zeros:,}",
            f"{row.count.sparsity:.5%}",
            "-" if row.surplus is None else f"{row.surplus:+d}",
            f"{1 / row.count.numel:.5%}",
        )
        for row in rows
    ]
    return table(("scoped tensor", "shape", "zeros", "sparsity", "off by", "1 weight"), cells)


def corpus_table(folder: Path, states: Sequence[ShardState]) -> str:
    """Rows and tokens of every shard of prepared data and the state of each file, then either `ok` or the problems."""
    rows = [
        (
            str(state.path.relative_to(folder)),
            "-" if state.rows is None else f"{state.rows:,}",
            "-" if state.tokens is None else f"{state.tokens:,}",
            "damaged" if state.problem else "ok",
        )
        for state in states
    ]
    text = table(("file", "rows", "tokens", "state"), rows)
    damaged = [state for state in states if state.problem]
    if not damaged:
        return f"{text}\n\nok: {folder} is what its manifest says it is"
    shown = "\n".join(f"{state.path}: {state.problem}" for state in damaged[:SHOWN_PROBLEMS])
    return f"{text}\n\n{shown}\n{len(damaged)} damaged files: restore them, or prepare the data again"


def problem_table(problems: list[tuple[str, str, str]]) -> str:
    """Kind, place and finding, all to the left: findings are sentences."""
    widths = [max(len(problem[column]) for problem in problems) for column in range(2)]
    return "\n".join(f"{kind:<{widths[0]}}  {where:<{widths[1]}}  {what}" for kind, where, what in problems)
