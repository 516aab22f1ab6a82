"""Whether every number of nodes that a job may get can share the steps of its run: a range holds numbers that cannot,
and Slurm gives any of them, perhaps after days."""

from __future__ import annotations

from ofa.cluster.command import ScriptCall
from ofa.cluster.resources import Resources
from ofa.config import ConfigError, RunConfig, TrainingConfig, kind_of, load
from ofa.data.plan import PlanError, accumulation
from ofa.sections.data import BatchConfig
from ofa.slurm.errors import SubmitError


def check_division(call: ScriptCall, asked: Resources) -> None:
    """Refuse numbers of nodes whose ranks have no whole number of micro-batches each.

    Args:
        call: what is to be done.
        asked: of Slurm.

    Raises:
        SubmitError: with the first such number, and the numbers of the range that can.
    """
    batch = _batch(call)
    if batch is not None:
        check_batch(call.name, batch, asked)


def check_batch(name: str, batch: BatchConfig, asked: Resources, option: str = "--nodes ") -> None:
    """The same of a config's batch.

    Args:
        name: whose it is.
        batch: rows of a step.
        asked: of Slurm.
        option: that says how many nodes.
    """
    wrong: dict[int, str] = {}
    low, high = asked.nodes
    for nodes in asked.node_counts():
        try:
            accumulation(batch, nodes * asked.processes)
        except PlanError as error:
            wrong[nodes] = str(error)
    if not wrong:
        return
    first = next(iter(wrong))
    can = [nodes for nodes in asked.node_counts() if nodes not in wrong]
    instead = f"; of {low}-{high} nodes {', '.join(map(str, can))} can: {option}{_typed(can)}" if can else ""
    where = f"{first * asked.processes} ranks ({first} node{'s' * (first > 1)})"
    raise SubmitError(f"{name} on {where}: {wrong[first]}{instead}")


def _batch(call: ScriptCall) -> BatchConfig | None:
    """None: it has none, or a config that the script itself will refuse."""
    if not call.trains or call.config is None:
        return None
    try:
        kind = kind_of(call.config) or RunConfig
        return load(kind, call.config, call.sets).batch if issubclass(kind, TrainingConfig) else None
    except ConfigError:
        return None


def _typed(numbers: list[int]) -> str:
    """As `--nodes` takes them: `4`, `1-3` or `1,2,4`."""
    is_range = 1 < len(numbers) == numbers[-1] - numbers[0] + 1
    return f"{numbers[0]}-{numbers[-1]}" if is_range else ",".join(map(str, numbers))
