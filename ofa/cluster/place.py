"""A task's place in its job: which of how many ranks it is, on which nodes, at which start of the job, and how the
ranks find each other."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from dataclasses import dataclass

import submitit

from ofa.slurm.commands import ask
from ofa.slurm.hosts import hosts

PORTS = (20000, 32000)
"""From the first to before the last: below those that systems give to connections, any of which may be taken."""


@dataclass(frozen=True)
class Place:
    """Of one task."""

    cluster: str
    """`slurm`, `local` or `debug`."""

    job: str
    """Its number, with that of the task of an array (`17_3`)."""

    restart: int
    """How often Slurm has queued it again."""

    nodes: tuple[str, ...]
    rank: int
    ranks: int

    @property
    def can_requeue(self) -> bool:
        """Whether there is a queue to go back to."""
        return self.cluster == "slurm"


def own_place() -> Place:
    """Of this process, which submitit has started."""
    environment = submitit.JobEnvironment()
    step = os.environ.get("SLURM_STEP_NODELIST")  # of these ranks; the job may have more nodes than they use
    return Place(
        cluster=environment.cluster,
        job=environment.job_id,
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")) if environment.cluster == "slurm" else 0,
        nodes=tuple(hosts(step) if step and environment.cluster == "slurm" else environment.hostnames),
        rank=environment.global_rank,
        ranks=environment.num_tasks,
    )


def export(place: Place) -> None:
    """Set the variables of torchrun, by which the ranks find each other."""
    # Another port at each start: what listened before a restart may not have gone yet.
    os.environ["MASTER_PORT"] = str(port(place.job, place.restart))
    environment = submitit.helpers.TorchDistributedEnvironment()
    environment.master_addr = address(place.nodes[0]) if place.can_requeue else "127.0.0.1"
    environment.export(set_cuda_visible_devices=False, overwrite=True)


def port(job: str, restart: int) -> int:
    """Where rank 0 listens: every task of one start of a job finds the same."""
    digest = hashlib.sha256(f"{job} {restart}".encode()).digest()
    return PORTS[0] + int.from_bytes(digest[:8], "big") % (PORTS[1] - PORTS[0])


def address(node: str) -> str:
    """A node's name where that is known to the network, else the address that Slurm has for it."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        shown = ask("scontrol", "show", "node", "-o", node)
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    return found[1] if found else node
