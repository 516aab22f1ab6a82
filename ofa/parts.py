"""Parts that every kind of run makes alike."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import TrainingConfig
from ofa.engine.engine import Engine
from ofa.export.recipe_file import Parent, parameters_fingerprint
from ofa.guard import UpdateGuard
from ofa.journal import Journal, MaskedShare, Meter
from ofa.metrics import MetricsLog
from ofa.models.adapters import base_parameters, encoder_names, scope
from ofa.progress import Progress
from ofa.run_folder import RunFolder

LOG = logging.getLogger(__name__)


def guarded_engine(
    config: TrainingConfig,
    module: nn.Module,
    scoped: Mapping[str, nn.Parameter],
    guard: UpdateGuard,
    start: Start | None,
) -> Engine:
    """The module under DeepSpeed, ready to load `start` if there is one."""
    return Engine(
        config,
        module,
        scoped,
        universal=start is not None and start.universal,
        accepts=guard.accepts if guard.looks_at_norms else None,
    )


def journal(
    config: TrainingConfig,
    folder: RunFolder,
    masked: MaskedShare,
    progress: Progress,
    *,
    flops_per_token: float,
    accuracy: str | None,
) -> Journal:
    """What writes the loop's lines; measures the device's peak first.

    Args:
        config: of the run.
        folder: where the lines go.
        masked: of the run's model.
        progress: what shows them.
        flops_per_token: of training one token.
        accuracy: name in a line of the share of right predictions; None: the task has none.
    """
    peak = flops.measure_peak_flops(dist.device(), compute_dtype(config))
    LOG.info("large matrix products run at %.3g TFLOP/s on this device: mfu is a share of that", peak / 1e12)
    metrics = MetricsLog(folder.path, tensorboard=config.log.tensorboard, active=dist.rank() == 0)
    return Journal(metrics, progress, Meter(flops_per_token, peak), masked, accuracy=accuracy)


def masked_share(model: PreTrainedModel) -> MaskedShare:
    """What counts the model's sparsity in its masks; to be made before an engine divides the weights."""
    sizes = {name: weight.numel() for name, weight in scope(model).items()}
    return MaskedShare(sizes, encoder_names(model), sum(p.numel() for p in base_parameters(model).values()))


def compute_dtype(config: TrainingConfig) -> torch.dtype:
    """Of weights and activations."""
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def parent(
    role: Literal["init", "teacher"], init: str, model: PreTrainedModel, without: Collection[str] = ()
) -> Parent:
    """A model that a run starts from or learns from, with the fingerprint of its weights `without` those that were
    drawn."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if name not in without]
    return Parent(role, init, parameters_fingerprint(named))
