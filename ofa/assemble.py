"""From a pre-training config to the parts of a run, each checked against the others before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from ofa import dist, flops
from ofa.checkpoint import Start
from ofa.config import RunConfig
from ofa.cost import size_of
from ofa.data.loader import Loader, Validation
from ofa.data.shards import Corpus
from ofa.engine.engine import Engine
from ofa.evaluate import masked_lm_score
from ofa.export.recipe_file import Parent
from ofa.models.adapters import scope
from ofa.models.blocks import living_shape
from ofa.models.build import build_student, load_teacher
from ofa.models.compile import compile_if_asked
from ofa.models.fit import check_teacher, check_tokenizer, check_vocabulary
from ofa.models.pretraining import MaskedLanguageModeling, Teacher
from ofa.parts import Parts, build_run, compute_dtype, locked, parent
from ofa.pruning.magnitude import MagnitudePruner
from ofa.pruning.pruner import NoPruner, Pruner
from ofa.recipe import Recipe
from ofa.run import Run, Teaches
from ofa.run_folder import RunFolder


@dataclass
class PretrainingRun(Run):
    """A run on prepared text."""

    corpus: Corpus = field(kw_only=True)
    loader: Loader
    module: MaskedLanguageModeling

    def validation(self) -> Validation:
        """A fresh pass over the validation rows."""
        settings = self.run_config.evaluate
        return self.loader.validation(settings.rows, settings.micro_size)

    @property
    def run_config(self) -> RunConfig:
        """The config as what it is."""
        assert isinstance(self.config, RunConfig)
        return self.config

    @property
    def made(self) -> str:
        """What the final table calls the model."""
        if self.config.pruning is None:
            return "trained model"
        return "sparse student" if self.recipe.total_steps else "one-shot model"

    def scores(self) -> dict[str, float]:
        """Masked-LM loss and accuracy."""
        return masked_lm_score(self.module, self.validation())

    def in_words(self, scores: dict[str, float]) -> str:
        """Loss and accuracy."""
        loss, accuracy = scores["validation_loss"], 100 * scores["masked_accuracy"]
        return f"validation loss {loss:.4f}, masked accuracy {accuracy:.2f} %"


@dataclass(frozen=True)
class CorpusParts(Parts):
    """What a run on prepared text is made of before there is an engine."""

    corpus: Corpus
    loader: Loader


RunT = TypeVar("RunT", bound=PretrainingRun)


def open_parts(config: RunConfig, folder: RunFolder, *, lock: bool = False) -> CorpusParts:
    """Data, model, and where `lock` is wanted what is locked of it (a collective call).

    Raises:
        ValueError: of many kinds, each saying what does not fit.
    """
    corpus = Corpus.open(config.data.path)
    loader = Loader(corpus, config, dist.rank(), dist.world_size(), dist.device())
    model, drawn = build_student(config.model, seed=config.seed)
    check_vocabulary(model, corpus)
    check_tokenizer(config.model.init, corpus)
    dist.on_rank_zero(lambda: folder.check_space(config, size_of(model)))
    parents = [parent("init", config.model.init, model)] if config.model.init else []
    scoped = scope(model)
    keep, patterns = locked(config.model.init, scoped, drawn) if lock and config.model.init else ({}, {})
    return CorpusParts(
        model=model, scoped=scoped, keep=keep, patterns=patterns, parents=parents, loader=loader, corpus=corpus
    )


def teacher_of(config: RunConfig, parts: CorpusParts) -> tuple[Teacher, Parent]:
    """What the student learns from, on its device, and whose weights it is."""
    assert config.teacher is not None
    dense = load_teacher(config.teacher, config.model)
    check_teacher(parts.model, dense, config.objective)
    check_vocabulary(dense, parts.corpus)
    check_tokenizer(config.teacher.init, parts.corpus)
    its_parent = parent("teacher", config.teacher.init, dense)
    return Teacher(dense, config.objective).to(dist.device(), compute_dtype(config)), its_parent


def assemble(config: RunConfig, folder: RunFolder, start: Start | None, *, name: str) -> PretrainingRun:
    """Build everything, load the checkpoint if there is one, and cut the records back to it (a collective call)."""
    parts, teacher = open_parts(config, folder), None
    if config.teacher is not None:
        teacher, its_parent = teacher_of(config, parts)
        parts.parents.append(its_parent)
    compile_if_asked(config.engine, [parts.model, teacher.model] if teacher else [parts.model])

    def pruner(engine: Engine) -> Pruner:
        return MagnitudePruner(config.pruning, parts.scoped, engine.weights) if config.pruning else NoPruner()

    return build_corpus_run(
        PretrainingRun,
        config,
        folder,
        start,
        parts,
        name=name,
        recipe=Recipe(config),
        module=MaskedLanguageModeling(parts.model, config.objective),
        teacher=teacher,
        pruner=pruner,
    )


def build_corpus_run(
    kind: type[RunT],
    config: RunConfig,
    folder: RunFolder,
    start: Start | None,
    parts: CorpusParts,
    *,
    teacher: Teaches | None,
    **more: Any,
) -> RunT:
    """`ofa.parts.build_run` for prepared text (a collective call)."""
    return build_run(
        kind,
        config,
        folder,
        start,
        parts,
        teacher=teacher,
        flops_per_token=_flops_per_token(parts.loader, parts.model, getattr(teacher, "model", None)),
        accuracy="train_masked_accuracy",
        data_fingerprint=parts.corpus.fingerprint,
        corpus=parts.corpus,
        validate_every=config.evaluate.every,
        **more,
    )


def _flops_per_token(loader: Loader, model: PreTrainedModel, teacher: PreTrainedModel | None) -> float:
    """As in the first batch: packed rows differ little in their segments and predictions."""
    totals, batches = loader.global_batch(0)
    return flops.train_flops(
        living_shape(model.config),
        flops.mean_length(torch.cat([batch.document_ids for batch in batches])),
        totals.predicted / totals.tokens,
        living_shape(teacher.config) if teacher else None,
        totals.distilled / totals.tokens,
    )
