"""From a config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from ofa import dist, flops, samples
from ofa.checkpoint import Checkpoints, Start, load
from ofa.config import RunConfig, differences
from ofa.cost import size_of
from ofa.data.loader import Loader, Validation
from ofa.data.shards import Corpus
from ofa.engine.engine import Engine
from ofa.export.recipe_file import Parent, parameters_fingerprint
from ofa.guard import UpdateGuard
from ofa.journal import Journal, MaskedShare, Meter
from ofa.metrics import MetricsLog
from ofa.models.adapters import base_parameters, encoder_names, scope, shape
from ofa.models.build import build_model, check_teacher, check_tokenizer, check_vocabulary, load_teacher
from ofa.models.compile import compile_layers
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.progress import Progress
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import NoPruner, Pruner
from ofa.recipe import Recipe
from ofa.run_folder import RunFolder, hardware, read_json, versions
from ofa.samples import SampleLog
from ofa.sections.training import division

LOG = logging.getLogger(__name__)


@dataclass
class Run:
    """The parts of one run on one rank."""

    name: str
    config: RunConfig
    folder: RunFolder
    corpus: Corpus
    loader: Loader
    recipe: Recipe
    module: MaskedLanguageModeling
    engine: Engine
    teacher: Teacher | None
    pruner: Pruner
    checkpoints: Checkpoints
    journal: Journal
    progress: Progress
    samples: SampleLog
    parents: list[Parent]
    start_step: int
    batch: int
    """Number of the next global batch: updates tried so far, the skipped ones too."""
    guard: UpdateGuard
    loss_since_save: torch.Tensor
    """Sum of this rank's losses, on the device: not a number as soon as one is not."""

    def validation(self) -> Validation:
        """A fresh pass over the validation rows."""
        settings = self.config.evaluate
        return self.loader.validation(settings.rows, settings.micro_size)


def assemble(config: RunConfig, folder: RunFolder, start: Start | None, *, name: str) -> Run:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call)."""
    rank, world = dist.rank(), dist.world_size()
    corpus = Corpus.open(config.data.path)
    loader = Loader(corpus, config, rank, world, dist.device())
    model = build_model(config.model, seed=config.seed)
    check_vocabulary(model, corpus)
    check_tokenizer(config.model.init, corpus)
    dist.on_rank_zero(lambda: folder.check_space(config, size_of(model)))
    parents = [_parent("init", config.model.init, model)] if config.model.init else []
    teacher = None
    if config.teacher is not None:
        dense = load_teacher(config.teacher, config.model)
        check_teacher(model, dense, config.objective)
        check_vocabulary(dense, corpus)
        check_tokenizer(config.teacher.init, corpus)
        parents.append(_parent("teacher", config.teacher.init, dense))
        teacher = Teacher(dense, config.objective).to(dist.device(), _compute_dtype(config))

    scoped, recipe = scope(model), Recipe(config)
    masked = MaskedShare(encoder_names(model), sum(p.numel() for p in base_parameters(model).values()))
    if config.engine.compile:
        compile_layers([model, teacher.model] if teacher else [model], device=dist.device())
    module = MaskedLanguageModeling(model, config.objective)
    guard = UpdateGuard(config.optimizer)
    engine = Engine(
        config,
        module,
        scoped,
        universal=start is not None and start.universal,
        accepts=guard.accepts if guard.looks_at_norms else None,
    )
    pruner: Pruner = MagnitudePruner(config.pruning, scoped, engine.weights) if config.pruning else NoPruner()
    step = batch = 0
    if start is not None:
        step, state = load(engine, start)
        _check_parents(state["parents"], parents)
        if rank == 0:
            _warn_of_other_surroundings(folder, config)
        pruner.load_state_dict(state["pruner"], recipe.at(step))
        guard.load_state_dict(state["guard"])
        batch = state["batch"]
        LOG.info("continuing from %s", start.path)
    progress = Progress(config.schedule.total_steps, active=rank == 0)
    metrics = MetricsLog(folder.path, tensorboard=config.log.tensorboard, active=rank == 0)
    metrics.cut_back(step)
    dist.on_rank_zero(lambda: samples.cut_back(folder.samples, step))
    masked.recount(pruner.keep)
    peak = flops.measure_peak_flops(dist.device(), _compute_dtype(config))
    LOG.info("large matrix products run at %.3g TFLOP/s on this device: mfu is a share of that", peak / 1e12)
    meter = Meter(_flops_per_token(config, loader, model, teacher), peak)
    engine.train()
    progress.start(step, name)
    return Run(
        name=name,
        config=config,
        folder=folder,
        corpus=corpus,
        loader=loader,
        recipe=recipe,
        module=module,
        engine=engine,
        teacher=teacher,
        pruner=pruner,
        checkpoints=Checkpoints(folder.checkpoints, config.checkpoint),
        journal=Journal(metrics, progress, meter, masked),
        progress=progress,
        samples=SampleLog(folder.samples, active=config.log.samples),
        parents=parents,
        start_step=step,
        batch=batch,
        guard=guard,
        loss_since_save=torch.zeros((), device=dist.device()),
    )


def _compute_dtype(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def _parent(role: Literal["init", "teacher"], init: str, model: PreTrainedModel) -> Parent:
    return Parent(role, init, parameters_fingerprint(model.named_parameters()))


def _check_parents(before: list[dict[str, str]], now: list[Parent]) -> None:
    """Refuse to continue with other weights behind the same names."""
    old = {parent["role"]: parent["fingerprint"] for parent in before}
    for parent in now:
        if old.get(parent.role) != parent.fingerprint:
            raise ValueError(
                f"the {parent.role} {parent.name} holds other weights than when this run began; put the old ones back, "
                "or start anew in another --run-dir"
            )


def _warn_of_other_surroundings(folder: RunFolder, config: RunConfig) -> None:
    """Versions, machine, threads, and how work is divided decide the last bits of a result."""
    then = read_json(folder.config) if folder.has_started() else {}
    if then:
        then["division"] = {"ranks": then["world_size"], **division(then["config"])}
    now = {"ranks": dist.world_size(), **division(config.model_dump(mode="json"))}
    for key, value in (("versions", versions()), ("hardware", hardware()), ("division", now)):
        changed = differences(then.get(key, value), value)
        if changed:
            LOG.warning("not the %s that this run began with, so last bits may differ: %s", key, "; ".join(changed))


def _flops_per_token(config: RunConfig, loader: Loader, model: PreTrainedModel, teacher: Teacher | None) -> float:
    """As in the first batch: packed rows differ little in their segments and predictions."""
    totals, batches = loader.global_batch(0)
    return flops.train_flops(
        shape(model.config),
        flops.mean_length(torch.cat([batch.document_ids for batch in batches])),
        totals.predicted / totals.tokens,
        shape(teacher.model.config) if teacher else None,
        totals.distilled / totals.tokens,
    )
