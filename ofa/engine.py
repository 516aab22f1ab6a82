"""The only file that knows DeepSpeed: its start-up, its config, and where it keeps the copies of a weight.

DeepSpeed trains with up to three copies of each weight: the live parameter that the forward uses, an fp32 master (a
fragment of a flat partition, held by one rank), and Adam's moments beside the master. `MasterWeights` gives pruning and
export one view of them. `_hp_mapping` is DeepSpeed's private table of fragments: nothing public reads a fragment
without a collective, and nothing public writes one. `tests/dist` holds one test per stage and precision.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa import dist
from ofa.config import RunConfig
from ofa.data.plan import accumulation

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")

import deepspeed  # noqa: E402  (reads the environment set above)
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402

REDUCE_BUCKET = 25_000_000
"""Elements reduced together: small enough that BERT-base has several buckets to overlap with the backward."""


def start(config: RunConfig) -> None:
    """Start the process group and set this process's threads; call once, before anything collective."""
    dist.set_environment()
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    torch.set_num_threads(config.engine.threads or max(1, len(os.sched_getaffinity(0)) // dist.processes_here()))
    deepspeed_logger.setLevel("WARNING")
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.device())
    else:
        # Its shared-memory collectives are compiled at first use, which needs a compiler; gloo serves without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)


def stop() -> None:
    """End the process group; a second run in the same process may start a new one."""
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own config, generated from ours plus the pass-through section."""
    extra = config.engine.deepspeed
    zero = {
        "stage": config.engine.zero_stage,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "reduce_bucket_size": REDUCE_BUCKET,
        "allgather_bucket_size": 500_000_000,
        **extra.get("zero_optimization", {}),
    }
    return {
        **extra,
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": config.batch.micro_size,
        "gradient_accumulation_steps": accumulation(config.batch, world_size),
        "gradient_clipping": config.optimizer.max_grad_norm,
        "bf16": {"enabled": config.engine.precision == "bf16"},
        # Gradients of micro-batches and ranks are summed in fp32: in bf16 the sum would depend on how many there are.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "steps_per_print": 10**12,
    }


def parameter_groups(
    module: nn.Module, scoped: Mapping[str, nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: scoped weights alone (one flat buffer aligned with the masks), other matrices, and the rest.

    Biases and LayerNorm parameters (every tensor of one dimension) are not decayed.
    """
    in_scope = {id(p) for p in scoped.values()}
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in in_scope], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in in_scope and p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in in_scope and p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Engine:
    """A module under DeepSpeed: `engine(...)`, `backward`, `step`, and its weights."""

    def __init__(self, config: RunConfig, module: nn.Module, scoped: Mapping[str, nn.Parameter]):
        """Move the module to this rank's device and wrap it.

        Args:
            config: the run's config.
            module: fp32 module with the masked-LM forward.
            scoped: its prunable parameters by the name that masks use.
        """
        optimizer = torch.optim.AdamW(
            parameter_groups(module, scoped, config.optimizer.weight_decay),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            fused=torch.cuda.is_available(),
        )
        rounds = config.engine.precision == "bf16"
        exact = {name: p.detach().clone() for name, p in module.named_parameters()} if rounds else {}
        settings = deepspeed_config(config, dist.world_size())
        self._deepspeed: Any = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
        self.module = module
        self.device = self._deepspeed.device
        self.accumulation = accumulation(config.batch, dist.world_size())
        self._partitioned = config.engine.zero_stage > 0
        self._unpartitioned_norm: Tensor | None = None
        self.weights = MasterWeights(self._deepspeed, scoped)
        if rounds:
            # DeepSpeed makes its masters from weights that it has already rounded.
            self.weights.restore(dict(module.named_parameters()), exact)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        return self._deepspeed(*args, **kwargs)

    @property
    def loss_scale(self) -> int:
        """Factor that undoes DeepSpeed's averages over ranks and accumulation, so that means are ours alone."""
        return self.accumulation * dist.world_size()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro-batch."""
        self._deepspeed.backward(loss)

    def advance(self) -> None:
        """Close one micro-batch; on the last of a step reduce, clip and update."""
        if not self._partitioned and self._deepspeed.is_gradient_accumulation_boundary():
            # DeepSpeed keeps no norm at ZeRO 0.
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self._unpartitioned_norm = torch.nn.utils.get_total_norm(gradients)
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
        """False if the last update was skipped because its gradient overflowed."""
        return self._deepspeed.was_step_applied()

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        self._deepspeed.train(mode)

    def save(self, folder: Path, tag: str, client_state: dict[str, Any]) -> None:
        """Write DeepSpeed's files into `folder`/`tag` (a collective call); `latest` is left to the caller."""
        self._deepspeed.save_checkpoint(str(folder), tag=tag, client_state=client_state, save_latest=False)

    def load(self, folder: Path, tag: str) -> dict[str, Any]:
        """Read them back into an engine that has not stepped; returns the client state."""
        path, client_state = self._deepspeed.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise ValueError(f"DeepSpeed could not read the checkpoint {folder / tag}")
        return client_state

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """fp32 masters of a submodule's parameters (tied ones once) by the names they have in it, on the CPU of every
        rank (a collective call)."""
        return {name: self.weights.gather(p).cpu() for name, p in model.named_parameters()}


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


def read_checkpoint(path: Path, *, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """fp32 masters and client state of a checkpoint folder, without an engine.

    Args:
        path: a step-* folder.
        prefix: what the names of wanted parameters begin with; it is cut off.
    """
    saved = torch.load(path / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
    state = {**saved["module"], **_partitioned_masters(path, saved["module"])}
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}, saved


def _partitioned_masters(path: Path, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masters put together from the ranks' optimizer files; ZeRO 0 has none.

    DeepSpeed's own `zero_to_fp32` does not read the files of its bf16 optimizer with fp32 accumulation.
    """
    pieces: dict[str, list[Tensor]] = {}
    for file in sorted(path.glob("*_optim_states.pt"), key=_rank_of_file):
        saved = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]
        partitions = saved["single_partition_of_fp32_groups"]
        for partition, slices in zip(partitions, saved["param_slice_mappings"], strict=True):
            for name, address in slices.items():
                pieces.setdefault(name, []).append(partition.narrow(0, address.start, address.numel))
    return {name: torch.cat(parts).view(live[name].shape) for name, parts in pieces.items()}


def _rank_of_file(file: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", file.name)
    assert found, f"not an optimizer file of DeepSpeed: {file.name}"
    return int(found[1])


def _mapping(parameter: nn.Parameter) -> Any:
    """Where this rank's fragment of a parameter lies; None if it holds none."""
    return parameter._hp_mapping  # type: ignore[attr-defined]


def _fragment(whole: Tensor, mapping: Any) -> Tensor:
    """The part of a whole tensor that this rank's master fragment holds."""
    address = mapping.lp_fragment_address
    return whole.flatten().narrow(0, address.start, address.numel)

