"""What the partitions of a Slurm have, held against what a job asks for: said before anything is queued, in words that
name what there is. Slurm alone knows about accounts and queues: it is asked last, by `sbatch --test-only`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ofa.cluster.resources import Resources
from ofa.sections.base import nearest
from ofa.slurm.commands import ask_first
from ofa.slurm.errors import SubmitError

COLUMNS = "%P|%a|%D|%c|%m|%G|%l"
"""Of `sinfo --format`: partition, state, nodes, CPUs, megabytes, GPUs and other resources, time limit."""

BUSY = "Requested nodes are busy"
"""Some are down now: the job will wait for them."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one partition that are alike."""

    partition: str
    is_default: bool
    is_up: bool
    nodes: int
    cpus: int
    megabytes: int
    gpus: int
    minutes: float
    """Limit of the partition."""


def partitions() -> list[NodeGroup]:
    """What there is; each size of node for itself, of which sinfo would else say the least ("64+").

    Raises:
        NoSlurm: none answers; with what to do.
    """
    return parse(ask_first("sinfo", "--all", "--noheader", "--exact", f"--format={COLUMNS}"))


def parse(text: str) -> list[NodeGroup]:
    """Lines of `sinfo` with `COLUMNS`."""
    return [_group(line.split("|")) for line in text.splitlines() if line.count("|") == 6]


def check(asked: Resources, groups: Sequence[NodeGroup]) -> None:
    """Refuse what no partition can give.

    Args:
        asked: of one job.
        groups: what there is.

    Raises:
        SubmitError: with what was asked for and what there is.
    """
    name, own = _own(asked.partition, groups)
    where = f"partition {name}"
    if not any(group.is_up for group in own):
        raise SubmitError(f"{where} is down; choose another one")
    most = max(group.gpus for group in own)
    if asked.gpus_per_node > most:
        raise SubmitError(f"--gpus-per-node {asked.gpus_per_node}: a node of {where} has at most {most} GPUs")
    cpus = asked.processes * (asked.cpus_per_task or 1)
    most = max(group.cpus for group in own)
    if cpus > most:
        per_task = f" of {asked.cpus_per_task} CPUs" if asked.cpus_per_task else ""
        raise SubmitError(f"{asked.processes} processes{per_task} on a node: one of {where} has at most {most} CPUs")
    megabytes = (asked.mem_gb or 0) * 1024
    most = max(group.megabytes for group in own)
    if megabytes > most:
        raise SubmitError(f"--mem {asked.mem_gb:g}: a node of {where} has at most {most / 1024:.1f} GB")
    enough = [g for g in own if g.gpus >= asked.gpus_per_node and g.cpus >= cpus and g.megabytes >= megabytes]
    there = sum(group.nodes for group in enough)
    if asked.nodes[0] > there:
        such = " with what is asked for" if len(enough) < len(own) or asked.gpus_per_node else ""
        raise SubmitError(f"--nodes {asked.nodes[0]}: {where} has {there} nodes{such}")
    longest = max(group.minutes for group in own)
    if asked.minutes > longest:
        raise SubmitError(
            f"--time: {asked.minutes} minutes are more than the {longest:.0f} of {where}; a shorter limit will do, the "
            "job saves before it and is queued again"
        )


def _own(partition: str | None, groups: Sequence[NodeGroup]) -> tuple[str, list[NodeGroup]]:
    names = list(dict.fromkeys(group.partition for group in groups))
    if partition is None:
        default = next((group.partition for group in groups if group.is_default), None)
        if default is None:
            raise SubmitError(f"this Slurm has no default partition: say --partition, one of {', '.join(names)}")
        partition = default
    asked = partition.split(",")  # the first that can, of several
    for name in asked:
        if name not in names:
            raise SubmitError(f"--partition {name}: there is none of this name{nearest(name, names)}")
    return partition, [group for group in groups if group.partition in asked]


def _group(columns: Sequence[str]) -> NodeGroup:
    partition, state, nodes, cpus, megabytes, resources, limit = (column.strip() for column in columns)
    return NodeGroup(
        partition=partition.removesuffix("*"),
        is_default=partition.endswith("*"),
        is_up=state == "up",
        nodes=int(nodes),
        cpus=int(cpus),
        megabytes=int(megabytes),
        gpus=sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", resources)),
        minutes=_minutes(limit),
    )


def _minutes(limit: str) -> float:
    """Of `infinite`, `1-00:00:00`, `12:00:00`, `30:00`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if found is None:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60
