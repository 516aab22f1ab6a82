"""The only file that imports DeepSpeed, and its start-up in this process: accelerator, threads, process group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch

from ofa import dist
from ofa.config import TrainingConfig

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")

import deepspeed  # noqa: E402  (reads the environment set above)
import deepspeed.runtime.bf16_optimizer  # noqa: E402
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402

STOCK_LINEAR = torch.nn.functional.linear
"""DeepSpeed's ZeRO 3 puts another in its place for the whole process, whose gradients differ in last bits."""

COLLECTIVE = timedelta(hours=1)
"""How long ranks wait for each other: while rank 0 converts a checkpoint, checks records or flushes a save they all do.
DeepSpeed's own 10 minutes are too short for that; who is dead or hangs is found out by `ofa.watch`."""


def start(config: TrainingConfig) -> None:
    """Start the process group and set this process's threads; call once, before anything collective."""
    dist.set_environment()
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    torch.set_num_threads(config.engine.threads or own_threads())
    deepspeed_logger.setLevel("WARNING")
    # DeepSpeed calls collectives by their old names, thousands of times.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.device())
    else:
        keep_freed_memory()
        # Its shared-memory collectives are compiled at first use, which needs a compiler; gloo serves without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=COLLECTIVE)


def own_threads() -> int:
    """CPU threads of this process where the config gives none: of a process alone what OMP_NUM_THREADS says, of a task
    of Slurm what that gave it, else its share of the cores. Launchers of several processes set the variable to 1 of
    themselves, so that it says nothing."""
    here = dist.processes_here()
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # the others are of nested teams
    if here == 1 and said.isdigit() and int(said) > 0:
        return int(said)
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _cores_of_task(here) or cores // here))


def _cores_of_task(here: int) -> int | None:
    """Cores that Slurm meant for this process; None: it is no task of its own, or Slurm does not say. Where tasks are
    bound to cores these are those that the process sees, which must not be shared out again; else it sees all."""
    if os.environ.get("SLURM_STEP_NUM_TASKS") != str(dist.world_size()):  # a launcher inside of a task starts more
        return None
    own, of_all = os.environ.get("SLURM_CPUS_PER_TASK", ""), os.environ.get("SLURM_CPUS_ON_NODE", "")
    if own.isdigit():
        return int(own)
    return int(of_all) // here if of_all.isdigit() else None


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step.

    By default glibc takes every large array from the kernel and gives it back, so that each step faults in, page by
    page, what the step before had: a third of the time of a small model's step (`benchmarks/cpu_step.py`). Another C
    library is left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without DeepSpeed's warnings: its universal loader misses a model-parallel unit, which nothing here has."""
    level = deepspeed_logger.level
    deepspeed_logger.setLevel("ERROR")
    try:
        yield
    finally:
        deepspeed_logger.setLevel(level)


def stop() -> None:
    """End the process group and give torch back as it was; a second run in the same process may start a new one."""
    torch.nn.functional.linear = STOCK_LINEAR
    if torch.distributed.is_initialized():
        deepspeed.comm.destroy_process_group()
