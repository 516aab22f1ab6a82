"""A module under DeepSpeed: forward, backward, step, save, load, and its weights."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.config import TrainingConfig
from ofa.data.plan import accumulation
from ofa.engine.checkpoint_files import read_checkpoint
from ofa.engine.master_weights import MasterWeights
from ofa.engine.process import deepspeed, quiet
from ofa.engine.scattered_gradients import scatter_gradients
from ofa.engine.settings import deepspeed_config, divides_by_ranks, layout, parameter_groups


class Engine:
    """A module under DeepSpeed: `engine(...)`, `backward`, `step`, and its weights."""

    def __init__(
        self,
        config: TrainingConfig,
        module: nn.Module,
        scoped: Mapping[str, nn.Parameter],
        *,
        universal: bool = False,
        accepts: Callable[[float], bool] | None = None,
    ):
        """Move the module to this rank's device and wrap it.

        Args:
            config: the run's config.
            module: fp32 module with the masked-LM forward.
            scoped: its prunable parameters by the name that masks use.
            universal: whether the checkpoint that it will load is in the form of `ofa.engine.universal`.
            accepts: says of a gradient norm whether its update is applied. None: what is finite is, which DeepSpeed
                decides by itself, but for ZeRO 0.
        """
        optimizer = torch.optim.AdamW(
            parameter_groups(module, scoped, config.optimizer.weight_decay),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            # On a CPU the fused update of a weight depends, in its last bit, on where in its array it stands.
            fused=torch.cuda.is_available(),
        )
        self._accepts = accepts
        self._accepted: bool | None = None
        if accepts is not None or config.engine.zero_stage == 0:
            optimizer.register_step_pre_hook(self._decline)
        rounds = config.engine.precision == "bf16"
        exact = {name: p.detach().clone() for name, p in module.named_parameters()} if rounds else {}
        settings = deepspeed_config(config, dist.world_size(), universal=universal)
        with contextlib.redirect_stdout(io.StringIO()):  # its bf16 optimizer prints the memory after every group
            self._deepspeed: Any = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
        scatter_gradients(self._deepspeed)
        self.module = module
        self.device = self._deepspeed.device
        self.layout = layout(config, dist.world_size())
        self.accumulation = accumulation(config.batch, dist.world_size())
        self._divides_by_ranks = divides_by_ranks(config)
        self._keeps_norm = config.engine.zero_stage > 0
        self._unpartitioned_norm: Tensor | None = None
        self.weights = MasterWeights(self._deepspeed, scoped)
        if rounds:
            # DeepSpeed makes its masters from weights that it has already rounded.
            for name, parameter in module.named_parameters():
                self.weights.write(parameter, exact[name].to(self.device))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        return self._deepspeed(*args, **kwargs)

    @property
    def loss_scale(self) -> int:
        """Factor that undoes DeepSpeed's averages over accumulation and, where it makes one, over ranks, so that means
        are ours alone."""
        return self.accumulation * self.outer_scale

    @property
    def outer_scale(self) -> int:
        """What gradients of tensors that are no parameters of the module come out too large by, where losses were
        multiplied by `loss_scale`: DeepSpeed divides by the accumulation on the way back through the module, and by
        ranks, where it does, when it reduces its parameters' gradients."""
        return dist.world_size() if self._divides_by_ranks else 1

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch's share of the loss to those of the step."""
        # Not with scale_wrt_gas=False: where the loss is the module's own output, ZeRO 0 would divide all the same.
        self._deepspeed.backward(loss)

    def advance(self) -> None:
        """Close one micro-batch; on the last of a step reduce, clip and update."""
        if not self._keeps_norm and self._deepspeed.is_gradient_accumulation_boundary():
            # DeepSpeed keeps no norm at ZeRO 0.
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self._unpartitioned_norm = torch.nn.utils.get_total_norm(gradients)
            self._accepted = (self._accepts or math.isfinite)(float(self._unpartitioned_norm))
        else:
            self._accepted = None
        self._deepspeed.step()

    def set_lr(self, lr: float) -> None:
        """Learning rate of the coming update."""
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = lr

    def grad_norm(self) -> float | None:
        """Norm of the last update's gradient before clipping, as DeepSpeed computed it; None before the first."""
        norm = self._deepspeed.get_global_grad_norm() if self._unpartitioned_norm is None else self._unpartitioned_norm
        return None if norm is None else float(norm)

    def step_was_applied(self) -> bool:
        """False if the last update was skipped: its gradient was not finite, or not accepted."""
        return self._accepted is not False and self._deepspeed.was_step_applied()

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        self._deepspeed.train(mode)

    def save(self, folder: Path, tag: str, client_state: dict[str, Any]) -> None:
        """Write DeepSpeed's files into `folder`/`tag` (a collective call); `latest` is left to the caller."""
        self._deepspeed.save_checkpoint(str(folder), tag=tag, client_state=client_state, save_latest=False)

    def load(self, folder: Path, tag: str) -> dict[str, Any]:
        """Read them back into an engine that has not stepped; returns the client state."""
        with quiet():
            path, client_state = self._deepspeed.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise ValueError(f"DeepSpeed could not read the checkpoint {folder / tag}")
        for state in self._optimizer_states():
            # The universal loader of ZeRO 3 gives one step counter to all groups, and each would count it up; and it
            # leaves it on the CPU, where a fused optimizer does not look for it.
            device = self.device if torch.cuda.is_available() else state["step"].device
            state["step"] = state["step"].to(device, copy=True)
        return client_state

    def rewind(self, checkpoint: Path) -> None:
        """Put every weight back to its value in a checkpoint, also one of another number of ranks, and let the
        optimizer start anew: both moments and its step count become 0 (weight rewinding; a collective call)."""
        values, _ = dist.on_every_rank(lambda: read_checkpoint(checkpoint, prefix=""))
        for name, parameter in self.module.named_parameters():
            self.weights.write(parameter, values[name].to(self.device))
        self.restart_optimizer()

    def restart_optimizer(self) -> None:
        """Let the optimizer start anew: both moments and its step count become 0."""
        for state in self._optimizer_states():
            for value in state.values():
                value.zero_()

    def close(self) -> None:
        """Give memory and hooks back; the engine cannot be used any more."""
        self._deepspeed.destroy()

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """fp32 masters of a submodule's parameters (tied ones once) by the names they have in it, on the CPU of every
        rank (a collective call)."""
        return {name: self.weights.gather(p).cpu() for name, p in model.named_parameters()}

    def _decline(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before the optimizer steps, which DeepSpeed lets it do once for each group: take the gradients away from an
        update that is not accepted. AdamW passes over weights without one; DeepSpeed itself cannot decline."""
        if self._accepted is None and self._accepts is not None:
            self._accepted = self._accepts(float(self._deepspeed.optimizer._global_grad_norm))
        if self._accepted is False:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _optimizer_states(self) -> list[dict[str, Tensor]]:
        """AdamW's own state of everything that it updates on this rank; empty before the first update."""
        optimizer = getattr(self._deepspeed.optimizer, "optimizer", self._deepspeed.optimizer)
        return [state for state in optimizer.state.values() if state]
