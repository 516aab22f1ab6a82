"""The copies of each weight in a user's own loop: a torch model in fp32 and a torch optimizer, no engine.

Comes in: the scope and the optimizer. Goes out: a `Weights`, with which `PatternLock` and `MagnitudePruner` work in any
training loop. The live weight is the master, so only what never comes back can be served: a dense copy beside it
(`regrow`) would be a second model in memory, and a forward of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.pruning.pruner import Span


class PlainWeightsError(ValueError):
    """Weights or a pruning mode that a plain loop cannot serve."""


class PlainWeights:
    """Live weight and master in one, moments in the optimizer's state; implements `ofa.pruning.pruner.Weights`.

    Under DistributedDataParallel every rank holds the same weights, and the first one ranks them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer):
        """
        Args:
            parameters: the scope, by name (`ofa.models.adapters.scope`), fp32.
            optimizer: theirs. It must leave a weight of 0 at 0 where gradient and state are 0, as AdamW and SGD do.

        Raises:
            PlainWeightsError: a weight is not fp32, or the optimizer does not train it.
        """
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise PlainWeightsError(
                    f"{name} is {parameter.dtype}; without an engine there is no fp32 master, and rounded weights tie "
                    "when they are ranked: call model.float(), and compute in bf16 by torch.autocast"
                )
            if id(parameter) not in trained:
                raise PlainWeightsError(
                    f"{name} is in no group of the optimizer: give it model.parameters() of the same model, after it "
                    "was moved to its device"
                )
        self._parameters, self._optimizer = dict(parameters), optimizer

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Of each scoped weight."""
        return {name: parameter.shape for name, parameter in self._parameters.items()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((parameter.device for parameter in self._parameters.values()), dist.device())

    def spans(self) -> list[list[Span]]:
        """Everything on the first rank."""
        whole = [Span(name, 0, shape.numel()) for name, shape in self.shapes.items()]
        return [whole, *([] for _ in range(dist.world_size() - 1))]

    def masters(self) -> list[Tensor]:
        """The weights, flat, on the first rank; views."""
        return [parameter.detach().view(-1) for parameter in self._parameters.values()] if dist.rank() == 0 else []

    def mask_live(self, keep: Mapping[str, Tensor]) -> None:
        """Refused: a masked live weight is a masked master, and nothing could come back.

        Raises:
            PlainWeightsError: always.
        """
        raise PlainWeightsError(
            "pruning.regrow keeps dropped weights in a dense fp32 master, which a plain loop does not have: set regrow "
            "to false, or train with launch/pretrain.py or launch/finetune.py"
        )

    @torch.no_grad()
    def zero_dropped(self, keep: Mapping[str, Tensor]) -> None:
        """+0.0 in the weight, and in everything of its size that the optimizer keeps for it, where keep is False."""
        for name, mask in keep.items():
            parameter = self._parameters[name]
            state = self._optimizer.state.get(parameter, {}).values()
            for copy in (parameter, *(value for value in state if isinstance(value, Tensor))):
                if copy.shape == parameter.shape:
                    copy.masked_fill_(~mask, 0.0)
