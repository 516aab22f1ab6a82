"""This process among the others: who it is, and the few collectives the library asks for by name.

Every launcher that speaks torchrun's environment works (`deepspeed`, `torchrun`, one process per Slurm task); plain
`python` gets the environment of a world of one. Collectives go through torch.distributed, whose process group the
engine starts.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as torch_dist

T = TypeVar("T")


def set_environment() -> None:
    """Give a process that no launcher started the environment of a world of one."""
    if "RANK" in os.environ:
        return
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    os.environ.update(defaults, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))


def rank() -> int:
    """Number of this process among all."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """How many of them run on this machine, as the launcher says (torchrun and DeepSpeed name it differently)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world_size())))


def device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


def barrier() -> None:
    """Wait for every rank."""
    if torch_dist.is_initialized() and world_size() > 1:
        torch_dist.barrier()


def sum_over_ranks(values: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
    """Sum named scalars over all ranks in one collective; reads the device once.

    Sums are made in float64, so counts stay exact.
    """
    names = sorted(values)
    scalars = [torch.as_tensor(values[name], dtype=torch.float64).to(device()) for name in names]
    total = torch.stack(scalars)
    if torch_dist.is_initialized() and world_size() > 1:
        torch_dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


def max_over_ranks(tensor: torch.Tensor) -> None:
    """Replace each element by the largest that a rank holds, in place, in one collective (a collective call)."""
    if torch_dist.is_initialized() and world_size() > 1:
        torch_dist.all_reduce(tensor, op=torch_dist.ReduceOp.MAX)


def gather_objects(own: T) -> list[T]:
    """What every rank holds, by rank, on every rank."""
    if not torch_dist.is_initialized() or world_size() == 1:
        return [own]
    every: list[Any] = [None] * world_size()
    torch_dist.all_gather_object(every, own)
    return every


class Ranks(Protocol):
    """Who computes together, for code that runs alike on all ranks and in one process by itself."""

    number: int
    """Of this one among them."""
    size: int
    """How many they are."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Add a tensor up over them, in place (a collective call)."""
        ...

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all of them, which have one shape (a collective call)."""
        ...

    def exchange(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """Give each of them what is meant for it alone (a collective call).

        Args:
            tensor: flat, what each of them gets, by number, one after the other.
            sent: how many elements each gets; 0 for nothing.
            received: how many each gives to this one.

        Returns:
            Flat, what each of them gave, by number, one after the other.
        """
        ...


class Alone:
    """One process by itself, whatever others do."""

    number = 0
    size = 1

    def sum(self, tensor: torch.Tensor) -> None:
        """It is its own sum."""

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Itself."""
        return [tensor]

    def exchange(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """What it gives to itself."""
        return tensor


class Together:
    """All ranks of the process group."""

    def __init__(self):
        self.number, self.size = rank(), world_size()

    def sum(self, tensor: torch.Tensor) -> None:
        """One all-reduce."""
        torch_dist.all_reduce(tensor)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """One all-gather."""
        gathered = list(tensor.new_empty((self.size, *tensor.shape)))
        torch_dist.all_gather(gathered, tensor)
        return gathered

    def exchange(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """One all-to-all."""
        came = tensor.new_empty(sum(received))
        torch_dist.all_to_all_single(came, tensor, list(received), list(sent))
        return came


ALONE = Alone()


def ranks() -> Ranks:
    """All ranks of this run."""
    return Together() if torch_dist.is_initialized() and world_size() > 1 else ALONE


def from_rank_zero(value: Any) -> Any:
    """The value that rank 0 holds, on every rank."""
    if not torch_dist.is_initialized() or world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=0)
    return box[0]


def on_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and give every rank its result; if it raises, every rank ends.

    For what only one process may do (locks, decisions about files): rank 0 raises and so says why, and the others exit
    instead of waiting for it.
    """
    if rank() != 0:
        result, failed = from_rank_zero(None)
        if failed:
            sys.exit(1)
        return result
    try:
        result = function()
    except BaseException:
        from_rank_zero((None, True))
        raise
    from_rank_zero((result, False))
    return result


def on_every_rank(function: Callable[[], T]) -> T:
    """Run `function`, which talks to no other rank, on each of them; if it raises on one, every rank ends (a collective
    call).

    For what may fail on one machine alone, such as reading a file, before all go on together.
    """
    error, result = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    failed = gather_objects(error is not None)
    if error is not None:
        raise error
    if any(failed):
        sys.exit(1)
    return cast(T, result)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
