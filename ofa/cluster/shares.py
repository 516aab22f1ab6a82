"""The GPUs and cores of this machine, shared out between what runs side by side on it: each has a place, from 0."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from ofa.cluster.resources import Resources

ThingT = TypeVar("ThingT")


def visible_gpus() -> list[str]:
    """The GPUs that a process may see, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip() not in ("", "-1")]
    import torch  # seconds, and only here needed

    return [str(number) for number in range(torch.cuda.device_count())]


def free_place(taken: Collection[int]) -> int:
    """The first that is not taken."""
    return next(place for place in count() if place not in taken)


def at_place(place: int, things: Sequence[ThingT], each: int = 1) -> list[ThingT]:
    """Those of a place; where there are more places than things for them, several have the same.

    Args:
        place: from 0.
        things: GPUs or cores of the machine.
        each: how many a place has; above those that there are, some stand there twice.
    """
    return [things[(place * each + number) % len(things)] for number in range(each)]


def cores_of(places: int) -> int:
    """How many cores each of some places has."""
    return max(1, len(os.sched_getaffinity(0)) // places)


def cores_at(place: int, each: int) -> set[int]:
    """The numbers of the cores of a place, of those that this process may use; arguments as those of `at_place`."""
    return set(at_place(place, sorted(os.sched_getaffinity(0)), each))


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on these cores."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def fitting(asked: Resources) -> int:
    """Jobs for which this machine has GPUs, or where they need none cores, at the same time; at least 1."""
    if asked.gpus_per_node:
        return max(1, len(visible_gpus()) // asked.gpus_per_node)
    return cores_of(asked.processes * (asked.cpus_per_task or 1))
