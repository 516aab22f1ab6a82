"""From a pre-training config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import RunConfig
from ofa.cost import size_of
from ofa.data.loader import Loader, Validation
from ofa.data.shards import Corpus
from ofa.evaluate import masked_lm_score
from ofa.guard import UpdateGuard
from ofa.models.adapters import scope, shape
from ofa.models.build import build_model, check_teacher, check_tokenizer, check_vocabulary, load_teacher
from ofa.models.compile import compile_layers
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.parts import compute_dtype, guarded_engine, journal, masked_share, parent
from ofa.progress import Progress
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import NoPruner, Pruner
from ofa.recipe import Recipe
from ofa.run import Run, begin, resume
from ofa.run_folder import RunFolder


@dataclass
class PretrainingRun(Run):
    """A run on prepared text."""

    corpus: Corpus = field(kw_only=True)
    loader: Loader
    module: MaskedLanguageModeling
    teacher: Teacher | None

    def validation(self) -> Validation:
        """A fresh pass over the validation rows."""
        settings = self.run_config.evaluate
        return self.loader.validation(settings.rows, settings.micro_size)

    @property
    def run_config(self) -> RunConfig:
        """The config as what it is."""
        assert isinstance(self.config, RunConfig)
        return self.config

    def scores(self) -> dict[str, float]:
        """Masked-LM loss and accuracy."""
        return masked_lm_score(self.module, self.validation())

    def in_words(self, scores: dict[str, float]) -> str:
        """Loss and accuracy."""
        loss, accuracy = scores["validation_loss"], 100 * scores["masked_accuracy"]
        return f"validation loss {loss:.4f}, masked accuracy {accuracy:.2f} %"


def assemble(config: RunConfig, folder: RunFolder, start: Start | None, *, name: str) -> PretrainingRun:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call)."""
    corpus = Corpus.open(config.data.path)
    loader = Loader(corpus, config, dist.rank(), dist.world_size(), dist.device())
    model = build_model(config.model, seed=config.seed)
    check_vocabulary(model, corpus)
    check_tokenizer(config.model.init, corpus)
    dist.on_rank_zero(lambda: folder.check_space(config, size_of(model)))
    parents = [parent("init", config.model.init, model)] if config.model.init else []
    teacher = None
    if config.teacher is not None:
        dense = load_teacher(config.teacher, config.model)
        check_teacher(model, dense, config.objective)
        check_vocabulary(dense, corpus)
        check_tokenizer(config.teacher.init, corpus)
        parents.append(parent("teacher", config.teacher.init, dense))
        teacher = Teacher(dense, config.objective).to(dist.device(), compute_dtype(config))
    if config.engine.compile:
        compile_layers([model, teacher.model] if teacher else [model], device=dist.device())
    module, scoped = MaskedLanguageModeling(model, config.objective), scope(model)
    guard = UpdateGuard(config.optimizer)
    masked = masked_share(model)
    engine = guarded_engine(config, module, scoped, guard, start)
    pruner: Pruner = MagnitudePruner(config.pruning, scoped, engine.weights) if config.pruning else NoPruner()
    recipe = Recipe(config)
    progress = Progress(recipe.total_steps, active=dist.rank() == 0)
    operations = _flops_per_token(config, loader, model, teacher)
    run = PretrainingRun(
        name=name,
        config=config,
        folder=folder,
        data_fingerprint=corpus.fingerprint,
        corpus=corpus,
        loader=loader,
        recipe=recipe,
        module=module,
        engine=engine,
        teacher=teacher,
        pruner=pruner,
        journal=journal(config, folder, masked, progress, flops_per_token=operations, accuracy="train_masked_accuracy"),
        progress=progress,
        parents=parents,
        guard=guard,
        validate_every=config.evaluate.every,
    )
    if start is not None:
        resume(run, start)
    begin(run)
    return run


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
