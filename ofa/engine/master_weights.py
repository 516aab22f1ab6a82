"""Where DeepSpeed keeps the copies of a weight.

DeepSpeed trains with up to three copies of each weight: the live parameter that the forward uses, an fp32 master (a
fragment of a flat partition, held by one rank), and Adam's moments beside the master. `MasterWeights` gives pruning and
export one view of them. `_hp_mapping` is DeepSpeed's private table of fragments: nothing public reads a fragment
without a collective, and nothing public writes one. `tests/dist` holds one test per stage and precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofa.engine.process import deepspeed


class MasterWeights:
    """The copies of each scoped weight under ZeRO 0 or 1; implements `ofa.pruning.pruner.Weights`.

    ZeRO 1: each rank holds fragments of some weights; `_hp_mapping` is None where it holds nothing of a weight.
    ZeRO 0 in fp32: the live parameter is the master, and the optimizer's state holds its moments.
    """

    def __init__(self, engine: Any, scoped: Mapping[str, nn.Parameter]):
        self._optimizer = engine.optimizer
        self._partitioned = engine.zero_optimization_stage() > 0
        self._scoped = scoped

    def full_master(self, name: str) -> Tensor:
        """fp32 master of one scoped weight, whole, on every rank (a collective call)."""
        return self.gather(self._scoped[name])

    def copies(self, name: str) -> list[Tensor]:
        """Live weight, master and moments of one scoped weight, whole, on every rank (a collective call)."""
        parameter = self._scoped[name]
        if not self._partitioned:
            return [parameter.detach(), *(copy for copy, _ in self._local_copies(parameter, parameter))]
        moments = (deepspeed.utils.safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq"))
        return [parameter.detach(), self.gather(parameter), *(moment for moment in moments if moment is not None)]

    def gather(self, parameter: nn.Parameter) -> Tensor:
        """fp32 master of any trained parameter, whole, on every rank (a collective call)."""
        if not self._partitioned:
            return parameter.detach().float()
        master = deepspeed.utils.safe_get_full_fp32_param(parameter)
        assert master is not None, "DeepSpeed keeps no master of this parameter"
        return master

    @torch.no_grad()
    def mask_live(self, keep: Mapping[str, Tensor]) -> None:
        """live *= keep."""
        for name, mask in keep.items():
            self._scoped[name].mul_(mask)

    @torch.no_grad()
    def write_live(self, name: str, value: Tensor) -> None:
        """live = value, rounded to the live precision."""
        self._scoped[name].copy_(value)

    @torch.no_grad()
    def zero_dropped(self, keep: Mapping[str, Tensor]) -> None:
        """+0.0 in live weight, master and moments where keep is False; no collective."""
        for name, mask in keep.items():
            parameter = self._scoped[name]
            parameter.masked_fill_(~mask, 0.0)
            for local, part in self._local_copies(parameter, mask):
                local.masked_fill_(~part, 0.0)

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, nn.Parameter], exact: Mapping[str, Tensor]) -> None:
        """Write exact fp32 values into the masters of this rank."""
        for name, parameter in parameters.items():
            mapping = _mapping(parameter)
            if mapping is not None:
                mapping.get_hp_fragment().copy_(_fragment(exact[name], mapping))

    def _local_copies(self, parameter: nn.Parameter, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(master or moment held by this rank, its part of the mask), both of one shape."""
        if not self._partitioned:
            for value in self._optimizer.state.get(parameter, {}).values():
                if value.shape == parameter.shape:
                    yield value, mask
            return
        mapping = _mapping(parameter)
        if mapping is None:
            return
        part = _fragment(mask, mapping)
        yield mapping.get_hp_fragment(), part
        for key in self._moment_keys(mapping):
            yield mapping.get_hp_fragment(optim_state_key=key), part

    def _moment_keys(self, mapping: Any) -> list[str]:
        """Names of the moments, linked first if a loaded checkpoint brought some and no step has been made yet."""
        if mapping.optim_fragment is None and self._optimizer.optimizer.state:
            self._optimizer._lazy_init_hp_params_optimizer_state()
        return [] if mapping.optim_fragment is None else mapping.get_optim_state_keys()


def _mapping(parameter: nn.Parameter) -> Any:
    """Where this rank's fragment of a parameter lies; None if it holds none."""
    return parameter._hp_mapping  # type: ignore[attr-defined]


def _fragment(whole: Tensor, mapping: Any) -> Tensor:
    """The part of a whole tensor that this rank's master fragment holds."""
    address = mapping.lp_fragment_address
    return whole.flatten().narrow(0, address.start, address.numel)
