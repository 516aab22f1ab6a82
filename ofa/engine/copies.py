"""Where one rank finds its copies of a parameter, one class for each way in which ZeRO divides them.

A weight has up to three copies: the live one that the forward uses, an fp32 master, and Adam's two moments beside the
master. All ranges are flat and row-major. `tests/dist` holds every stage and precision against a count of what is not
zero behind the masks.

- ZeRO 0 keeps no master: the live fp32 weight is it, whole on every rank.
- ZeRO 1 and 2 keep live weights whole and give each rank a range of some masters. `_hp_mapping` is DeepSpeed's private
  table of these fragments: nothing public reads a fragment without a collective, and nothing public writes one.
- ZeRO 3 gives each rank a range of every weight, live (`ds_tensor`) and master, the last one padded. It also keeps
  small weights whole (`stage3_param_persistence_threshold`), a second live copy that the next forward uses.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.engine.process import deepspeed

MOMENTS = ("exp_avg", "exp_avg_sq")


class Held(NamedTuple):
    """What this rank holds of one parameter's master and moments: flat views of one range, which begins at `start`."""

    start: int
    master: Tensor
    moments: list[Tensor]

    @property
    def stop(self) -> int:
        """End of the range."""
        return self.start + self.master.numel()


class Live(NamedTuple):
    """A live copy, or the range of it that this rank holds: a flat view that begins at `start`."""

    start: int
    values: Tensor


class Copies(Protocol):
    """The copies of any trained parameter."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        ...

    def live(self, parameter: nn.Parameter) -> list[Live]:
        """Every live copy on this rank."""
        ...

    def held(self, parameter: nn.Parameter) -> Held | None:
        """Master and moments on this rank; None if it holds nothing of the parameter."""
        ...

    def read(self, parameter: nn.Parameter) -> Held | None:
        """As `held`, but no weight is given to two ranks, so that together they read each one once."""
        ...

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """The whole fp32 master on every rank (a collective call)."""
        ...


def copies_of(engine: Any) -> Copies:
    """The class for the stage of a DeepSpeed engine."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return Unpartitioned(engine.optimizer)
    return (PartitionedWeights if stage == 3 else PartitionedStates)(engine.optimizer)


class Unpartitioned:
    """ZeRO 0 in fp32: every rank holds everything."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        """
        Args:
            optimizer: whose state is looked for at each use, because loading a checkpoint puts another in its place.
        """
        self._optimizer = optimizer

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return parameter.shape

    def live(self, parameter: nn.Parameter) -> list[Live]:
        """None beside the master, which it is."""
        return []

    def held(self, parameter: nn.Parameter) -> Held:
        """All of it."""
        state = self._optimizer.state.get(parameter, {})
        return Held(0, parameter.detach().view(-1), [state[key].view(-1) for key in MOMENTS if key in state])

    def read(self, parameter: nn.Parameter) -> Held | None:
        """An equal share for each rank; they all hold the same."""
        whole = self.held(parameter)
        share = -(-whole.stop // dist.world_size())
        start = min(dist.rank() * share, whole.stop)
        stop = min(start + share, whole.stop)
        return Held(start, whole.master[start:stop], []) if start < stop else None

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """The weight itself."""
        return parameter.detach().float()


class PartitionedStates:
    """ZeRO 1 and 2."""

    def __init__(self, optimizer: Any):
        """
        Args:
            optimizer: DeepSpeed's, around the one it was given.
        """
        self._optimizer = optimizer

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return parameter.shape

    def live(self, parameter: nn.Parameter) -> list[Live]:
        """The parameter."""
        return [Live(0, parameter.detach().view(-1))]

    def held(self, parameter: nn.Parameter) -> Held | None:
        """The fragment of this rank, if it has one."""
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        if not mapping.optim_fragment and self._optimizer.optimizer.state:
            # DeepSpeed links moments to parameters once, after the first step of the first group of parameters: it
            # misses the other groups, and what a loaded checkpoint brings.
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()
        moments = [mapping.get_hp_fragment(key) for key in MOMENTS if mapping.optim_fragment]
        return Held(mapping.lp_fragment_address.start, mapping.get_hp_fragment(), moments)

    def read(self, parameter: nn.Parameter) -> Held | None:
        """As `held`: fragments do not overlap."""
        return self.held(parameter)

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """DeepSpeed sums the fragments into zeros."""
        return _full_master(parameter)


class PartitionedWeights:
    """ZeRO 3."""

    def __init__(self, optimizer: Any):
        """
        Args:
            optimizer: DeepSpeed's, around the one it was given.
        """
        self._optimizer = optimizer

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return parameter.ds_shape  # type: ignore[attr-defined]

    def live(self, parameter: nn.Parameter) -> list[Live]:
        """The share of this rank, and the whole weight where DeepSpeed keeps it because it is small."""
        start, count = self._range(parameter)
        partition: Any = parameter.ds_tensor  # type: ignore[attr-defined]
        copies = [Live(start, partition.detach().view(-1)[:count])] if count else []
        if parameter.numel() == parameter.ds_numel:  # type: ignore[attr-defined]
            copies.append(Live(0, parameter.detach().view(-1)))
        return copies

    def held(self, parameter: nn.Parameter) -> Held | None:
        """The share of this rank without its padding."""
        start, count = self._range(parameter)
        if not count:
            return None
        master = deepspeed.utils.safe_get_local_fp32_param(parameter)
        stepped = bool(self._optimizer.optimizer.state)
        moments = [deepspeed.utils.safe_get_local_optimizer_state(parameter, key) for key in MOMENTS if stepped]
        return Held(start, master[:count], [moment[:count] for moment in moments])

    def read(self, parameter: nn.Parameter) -> Held | None:
        """As `held`: shares do not overlap."""
        return self.held(parameter)

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """DeepSpeed gathers the shares."""
        return _full_master(parameter)

    def _range(self, parameter: Any) -> tuple[int, int]:
        """Start and length of this rank's share; every share but the last ones has the same length."""
        share = parameter.ds_tensor.numel()
        start = min(dist.rank() * share, parameter.ds_numel)
        return start, min(share, parameter.ds_numel - start)


def _full_master(parameter: nn.Parameter) -> Tensor:
    master = deepspeed.utils.safe_get_full_fp32_param(parameter)
    assert master is not None, "DeepSpeed keeps no master of this parameter"
    return master
