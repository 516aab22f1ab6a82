"""The pull towards the target sparsity, and the one place where gates and multipliers are updated.

In: gates whose gradients the micro-batches of a step have left, and what units cost. Out: gates after the update.

    L = lambda1 (s - t) + lambda2 (s - t)^2        min over gates, max over lambda1, lambda2

s is the expected sparsity, t the target of the step (CoFi, Xia et al. 2022, section 2.3, with the sign of
lambda1 as in its code; cofi.md 1.7). Below the target lambda1 falls, and gates close.

Gates and multipliers stay outside the engine: it would round them to bf16, clip their gradient together with the
weights', and give them the weights' learning rate. L does not become a part of the loss either. The engine divides what
flows through the module's outputs by the accumulation and nothing else, so a term beside them would pull as many times
too hard (cofi.md 5.5). It has a backward of its own, once for each applied update, on every rank alike.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ofa.dist import ALONE, Ranks
from ofa.downstream.cofi.budget import Costs
from ofa.downstream.cofi.probabilities import OpenProbabilities

GATE_BETAS = (0.9, 0.99)
"""Decays of the gates' moments. With the usual 0.999 the second moment remembers the ramp's gradients for a thousand
updates after it, and the pull back from an overshoot is made as small: without a task loss, at target 0.95, learning
rate 0.01 and a ramp of 1500 updates, the expected sparsity is still off by up to 0.04 after 3000 updates; with
0.99 it is off by 0.0001."""

GATE_EPS = 1e-15
"""Added to the root of the gates' second moment. The pull on one intermediate dimension of BERT-base is about 4e-8
times a multiplier, which begins at 0: under the usual 1e-8 dimensions would close later than heads and sublayers, whose
pull is a hundred times and more, and the common threshold of `finalise` would take the heads for the worse ones."""


class TrainableGates(Protocol):
    """What the optimizer needs of gates."""

    log_alpha: nn.Parameter
    """Of all units, flat and fp32."""

    def open_probabilities(self) -> OpenProbabilities:
        """P(z != 0), differentiable."""
        ...

    def clamp_(self) -> None:
        """Bring log_alpha back into its range."""
        ...


class Lagrangian(nn.Module):
    """The two multipliers; they start at 0."""

    def __init__(self, *, limit: float | None = None):
        """
        Args:
            limit: lambda2 goes no higher; by itself it never falls, since its gradient is a square. None: no limit.
        """
        super().__init__()
        self._limit = limit
        self.multipliers = nn.Parameter(torch.zeros(2, dtype=torch.float32))
        """lambda1, lambda2"""

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        """L, a scalar."""
        excess = sparsity - target
        return self.multipliers[0] * excess + self.multipliers[1] * excess**2

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring lambda2 below its limit."""
        if self._limit is not None:
            self.multipliers[1].clamp_(max=self._limit)


class GateOptimizer:
    """Updates gates (descent) and multipliers (ascent), each with an AdamW without decay and without clipping.

    All ranks hold the same gates and multipliers, to the bit: their gradient is summed in one reduction, which gives
    every rank the same bits, and what follows is the same arithmetic.
    """

    def __init__(
        self,
        gates: TrainableGates,
        lagrangian: Lagrangian,
        costs: Costs,
        *,
        lr: float,
        ranks: Ranks = ALONE,
    ):
        """Take over gates and multipliers that are on their device already.

        Args:
            gates: to be trained.
            lagrangian: its multipliers are trained too.
            costs: what sparsity is measured in.
            lr: of both, constant (`reg_learning_rate` of the published code: 0.01).
            ranks: that train together.
        """
        self._gates, self._lagrangian, self._costs, self._ranks = gates, lagrangian, costs, ranks
        self._of_gates = torch.optim.AdamW([gates.log_alpha], lr=lr, betas=GATE_BETAS, eps=GATE_EPS, weight_decay=0.0)
        self._of_multipliers = torch.optim.AdamW(lagrangian.parameters(), lr=lr, weight_decay=0.0, maximize=True)

    def step(self, target: float, scale: float = 1.0) -> dict[str, Tensor]:
        """Apply an update, after the engine has applied its own (a collective call).

        Args:
            target: sparsity to pull to in this step; no lower than that of the dense structure, which is not 0 for
                non-zeros of a sparse base, or the multipliers learn to open gates that are open.
            scale: what the gates' gradients are too large by: the factor that losses were multiplied by, over that
                which the engine divides by on the way back to the module's inputs (`Engine.outer_scale`).

        Returns:
            `expected_sparsity` and `lagrangian` as they were before the update, still on the device: nothing here
            waits for it.
        """
        log_alpha, multipliers = self._gates.log_alpha, self._lagrangian.multipliers
        if log_alpha.grad is None:  # no gate was asked for in this step's forwards
            log_alpha.grad = torch.zeros_like(log_alpha)
        self._ranks.sum(log_alpha.grad)
        log_alpha.grad /= scale
        sparsity = self._costs.sparsity(self._costs.expected(self._gates.open_probabilities()))
        pull = self._lagrangian(sparsity, target)
        pull.backward(inputs=[log_alpha, multipliers])
        self._of_gates.step()
        self._of_multipliers.step()
        self._gates.clamp_()
        self._lagrangian.clamp_()
        self.discard()
        return {"expected_sparsity": sparsity.detach(), "lagrangian": pull.detach()}

    def discard(self) -> None:
        """Forget the gradients of an update that was skipped; gates, multipliers and moments stay."""
        self._of_gates.zero_grad()
        self._of_multipliers.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that a checkpoint must hold, gates and multipliers included.

        Random states are no part of it: masks follow torch's generator, which the loop seeds for each micro-batch.
        """
        state = {
            "log_alpha": self._gates.log_alpha.detach(),
            "multipliers": self._lagrangian.multipliers.detach(),
            "of_gates": self._of_gates.state_dict(),
            "of_multipliers": self._of_multipliers.state_dict(),
        }
        return copy.deepcopy(state)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint, bit for bit.

        Raises:
            ValueError: it is of other gates.
        """
        if state["log_alpha"].shape != self._gates.log_alpha.shape:
            raise ValueError(
                f"the checkpoint has {state['log_alpha'].numel()} gates, this run {self._gates.log_alpha.numel()}: it "
                "is of another model, or of other families of units; start anew in another --run-dir"
            )
        self._gates.log_alpha.copy_(state["log_alpha"])
        self._lagrangian.multipliers.copy_(state["multipliers"])
        self._of_gates.load_state_dict(copy.deepcopy(state["of_gates"]))
        self._of_multipliers.load_state_dict(copy.deepcopy(state["of_multipliers"]))
