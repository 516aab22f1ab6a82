"""Whether every number of nodes that a job may get can share the steps of its run: a range holds numbers that cannot,
and Slurm gives any of them, perhaps after days."""

from __future__ import annotations

from ofa.cluster.command import ScriptCall
from ofa.cluster.errors import SubmitError
from ofa.cluster.resources import Resources
from ofa.config import ConfigError, RunConfig, TrainingConfig, kind_of, load
from ofa.data.plan import PlanError, accumulation
from ofa.sections.data import BatchConfig


def check_division(call: ScriptCall, asked: Resources) -> None:
    """Refuse numbers of nodes whose ranks have no whole number of micro-batches each.

    Args:
        call: what is to be done.
        asked: of Slurm.

    Raises:
        SubmitError: with the first such number, and the numbers of the range that can.
    """
    batch = _batch(call)
    if batch is None:
        return
    wrong: dict[int, str] = {}
    low, high = asked.nodes
    for nodes in range(low, high + 1):
        try:
            accumulation(batch, nodes * asked.processes)
        except PlanError as error:
            wrong[nodes] = str(error)
    if not wrong:
        return
    first = next(iter(wrong))
    can = [nodes for nodes in range(low, high + 1) if nodes not in wrong]
    instead = f"; of {low}-{high} nodes {', '.join(map(str, can))} can: --nodes {_ranges(can)}" if can else ""
    where = f"{first * asked.processes} ranks ({first} node{'s' * (first > 1)})"
    raise SubmitError(f"{call.name} on {where}: {wrong[first]}{instead}")


def _batch(call: ScriptCall) -> BatchConfig | None:
    """None: it has none, or a config that the script itself will refuse."""
    if not call.trains or call.config is None:
        return None
    try:
        kind = kind_of(call.config) or RunConfig
        return load(kind, call.config, call.sets).batch if issubclass(kind, TrainingConfig) else None
    except ConfigError:
        return None


def _ranges(numbers: list[int]) -> str:
    """`1-2, 4 or 8`."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    *most, last = [str(low) if low == high else f"{low}-{high}" for low, high in found]
    return f"{', '.join(most)} or {last}" if most else last
