"""What a run will cost: tokens, operations, memory, disk and hours, from its config alone.

Models are built on the meta device, so nothing is allocated; epochs are given if the shards are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedModel

from ofa import flops
from ofa.config import ModelConfig, OverrideConfig, RunConfig, TrainingConfig
from ofa.data.plan import accumulation
from ofa.data.shards import Corpus
from ofa.models.adapters import scope, shape
from ofa.models.build import build_config
from ofa.pruning.allocation import RankingGroup, ranking_groups, target_of

MASTER_AND_MOMENTS = 12
"""Bytes a parameter of fp32 master and two Adam moments, shared out over the ranks by ZeRO 1."""


@dataclass(frozen=True)
class Size:
    """Weights of a model with its heads."""

    parameters: int
    scoped: int


def summary(config: RunConfig, *, ranks: int, tokens_per_second: float | None) -> str:
    """A table of the run's cost on `ranks` ranks; hours are given for a rate in tokens per second over all ranks."""
    tokens = config.schedule.total_steps * config.batch.global_size * config.data.sequence_length
    operations = tokens * flops_per_token(config)
    model = _on_meta(config.model)
    size = size_of(model)
    rows = [
        ("steps", f"{config.schedule.total_steps:,}"),
        ("rows per step", f"{config.batch.global_size:,} = {_batch(config, ranks)}"),
        ("tokens", f"{tokens:.4g} (rows are full)"),
        ("epochs", _epochs(config)),
        ("parameters", f"{size.parameters:,} of which {size.scoped:,} can be pruned"),
        *_kept(config, {name: weight.shape for name, weight in scope(model).items()}),
        ("operations", f"{operations:.3g} FLOP, {operations / max(tokens, 1):.4g} a token"),
        ("memory per rank", f"{_gigabytes(rank_memory(config, size, ranks))} and activations"),
        ("disk per checkpoint", _gigabytes(checkpoint_bytes(config, size))),
        ("disk for checkpoints", _checkpoints(config, size)),
    ]
    if tokens_per_second:
        rows.append(("time", f"{tokens / tokens_per_second / 3600:.1f} hours at {tokens_per_second:,.0f} tokens/s"))
    return "\n".join(f"{label:22}{value}" for label, value in rows)


def model_size(model: ModelConfig) -> Size:
    """Parameters, tied ones once, and those in the pruning scope."""
    return size_of(_on_meta(model))


def size_of(model: PreTrainedModel) -> Size:
    """Parameters of a built model, and those in the pruning scope."""
    return Size(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in scope(model).values()))


def rank_memory(config: RunConfig, size: Size, ranks: int) -> float:
    """Bytes of weights, gradients, optimizer state, masks and teacher on one rank."""
    live = 2 if config.engine.precision == "bf16" else 4
    shares = ranks if config.engine.zero_stage else 1
    masters = MASTER_AND_MOMENTS if config.engine.zero_stage else 8
    # DeepSpeed's bf16 optimizer, which is that of ZeRO 1, adds micro-batches up in fp32 beside the bf16 gradients.
    sums = 4 if config.engine.zero_stage == 1 and config.engine.precision == "bf16" else 0
    teacher = live * size.parameters if config.teacher else 0
    masks = size.scoped if config.pruning else 0
    return (2 * live + sums) * size.parameters + masters * size.parameters / shares + masks + teacher


def wire_bytes(config: RunConfig, size: Size, ranks: int) -> float | None:
    """Bytes that a rank sends in a step at ZeRO 1, whatever the accumulation: a reduce-scatter of gradients (in fp32 an
    all-reduce, which is two) and an all-gather of live weights (`tests/dist/test_wire.py`); None for another stage."""
    if config.engine.zero_stage != 1:
        return None
    live = 2 if config.engine.precision == "bf16" else 4
    gradient = 2 if config.engine.deepspeed.get("communication_data_type") == "bf16" else 4
    passes = 1 if config.engine.precision == "bf16" else 2
    return (passes * gradient + live) * size.parameters * (ranks - 1) / ranks


def checkpoint_bytes(config: TrainingConfig, size: Size) -> float:
    """Bytes on disk of one checkpoint, over all ranks: live weights, optimizer state, one bit a mask."""
    live = 2 if config.engine.precision == "bf16" else 4
    masters = MASTER_AND_MOMENTS if config.engine.zero_stage else 8
    return (live + masters) * size.parameters + (size.scoped / 8 if config.has_masks else 0)


def disk_bytes(config: TrainingConfig, size: Size) -> float:
    """Bytes that a run folder needs at least: the newest checkpoints, one that is being written, and the fp32 model."""
    masks = size.scoped / 8 if config.has_masks else 0
    return config.most_checkpoints * checkpoint_bytes(config, size) + 4 * size.parameters + masks


def flops_per_token(config: RunConfig) -> float:
    """Of training one token, its row taken as one segment; the teacher as large as the student, which its config file
    may tell better."""
    student = shape(build_config(config.model.model_copy(update={"init": None})))
    length = config.data.sequence_length
    predicted = config.data.predictions_limit() / length
    kind = config.objective.kd_positions
    shares = {"masked": predicted, "all": 1.0}
    distilled = shares[kind] if kind in shares else float(kind.removeprefix("sample:"))
    return flops.train_flops(student, length, predicted, student if config.teacher else None, distilled)


def _on_meta(model: ModelConfig) -> PreTrainedModel:
    kind = AutoModelForPreTraining if model.task == "mlm_nsp" else AutoModelForMaskedLM
    with torch.device("meta"):
        return kind.from_config(build_config(model.model_copy(update={"init": None})))


def _kept(config: RunConfig, shapes: Mapping[str, torch.Size]) -> list[tuple[str, str]]:
    """Rows: how many weights live when the masks are final, in all and by target."""
    if config.pruning is None:
        return []
    groups = ranking_groups(config.pruning, shapes)
    of_targets: dict[int, list[RankingGroup]] = {}
    for group in groups:
        of_targets.setdefault(target_of(config.pruning, group.names[0]), []).append(group)
    rows = [("weights that live", _counts(groups, shapes))]
    for number, target in enumerate([*config.pruning.overrides, config.pruning]):
        if number in of_targets:
            some = of_targets[number]
            name = f"{target.match}: " if isinstance(target, OverrideConfig) else ""
            how = f"{some[0].pattern.text}, {target.allocation}, {target.sparsity:.4g} zeros"
            rows.append(("  by an override" if name else "  by the section", f"{name}{_counts(some, shapes)}; {how}"))
    return rows


def _counts(groups: Iterable[RankingGroup], shapes: Mapping[str, torch.Size]) -> str:
    groups = list(groups)
    weights = sum(group.units(shapes) * group.pattern.unit for group in groups)
    live = weights - sum(group.zeros(shapes, group.final) for group in groups)
    tensors = sum(len(group.names) for group in groups)
    return f"{live:,} of {weights:,} in {tensors} tensors ({live / weights:.4%})"


def _batch(config: RunConfig, ranks: int) -> str:
    return f"{ranks} ranks x {config.batch.micro_size} x {accumulation(config.batch, ranks)} micro-batches"


def _epochs(config: RunConfig) -> str:
    if not (Path(config.data.path) / "manifest.json").is_file():
        return f"unknown until {config.data.path} is prepared"
    rows = Corpus.open(config.data.path).split("train").total_rows
    return f"{config.schedule.total_steps * config.batch.global_size / rows:.2f} of {rows:,} rows"


def _checkpoints(config: RunConfig, size: Size) -> str:
    every = config.checkpoint.keep_every
    kept = config.checkpoint.keep_last + 1 + (config.schedule.total_steps // every if every else 0)
    return f"{_gigabytes(kept * checkpoint_bytes(config, size))} for up to {kept} at a time"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
