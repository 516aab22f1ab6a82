"""Masked-LM validation, and what a pruned run is compared with.

The validation rows and their masks are the same for every run on a corpus, so losses compare. Sums are made over all
ranks with the counts of all rows, so neither world size nor batch size shows in them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ofa import dist
from ofa.config import DataConfig, ModelConfig, ObjectiveConfig, PruningConfig, TeacherConfig
from ofa.data.fit import PAIRS
from ofa.data.loader import Validation, validation_batches
from ofa.data.shards import Corpus
from ofa.export.hf import find_model_folder
from ofa.export.recipe_file import RECIPE_FILE, read_recipe
from ofa.export.units import Units
from ofa.models.adapters import scope
from ofa.models.build import build_model, load_teacher, read_config
from ofa.models.fetch import side_file
from ofa.models.fit import check_tokenizer, check_vocabulary
from ofa.models.place import ModelError, is_local
from ofa.models.pretraining import MaskedLanguageModeling
from ofa.models.sparsity import sparsities
from ofa.models.task_models import head_of
from ofa.pruning.allocation import ranking_groups
from ofa.pruning.ranking import select_whole


@torch.no_grad()
def masked_lm_score(module: MaskedLanguageModeling, validation: Validation) -> dict[str, float]:
    """Score a module on validation rows (a collective call).

    Returns:
        `validation_loss` (nats per predicted token), `masked_accuracy`, and with sentence pairs `validation_nsp_loss`.
    """
    was_training = module.training
    module.eval()
    sums: dict[str, torch.Tensor | float] = {"masked_lm": 0.0, "correct": 0.0}
    if validation.totals.pairs and module.has_pair_head:
        sums["nsp"] = 0.0
    for number, batch in enumerate(validation.batches):
        _, terms = module(batch, validation.totals)
        for name in sums.keys() & terms.keys() if number < validation.counted else ():
            sums[name] = sums[name] + terms[name].double()
    module.train(was_training)
    summed = dist.sum_over_ranks(sums)
    score = {
        "validation_loss": summed["masked_lm"],
        "masked_accuracy": summed["correct"] / validation.totals.predicted,
    }
    return score | ({"validation_nsp_loss": summed["nsp"]} if "nsp" in summed else {})


@torch.no_grad()
def reference_rows(
    config: ModelConfig,
    objective: ObjectiveConfig,
    *,
    seed: int,
    pruning: PruningConfig | None,
    validation: Callable[[], Validation],
    start: str,
) -> list[dict[str, float | str]]:
    """Scores of what a pruned run starts from, so that its own score means something (a collective call).

    Returns:
        The dense start under the name `start`; the same pruned to the final masks' pattern and sparsity in one shot,
        where single weights are pruned; and the floor, with every scoped weight zero.
    """
    model = build_model(config, seed=seed)
    module = MaskedLanguageModeling(model, objective).to(dist.device())
    rows = [{"name": start, **masked_lm_score(module, validation()), **sparsities(model)}]
    weights = scope(model)
    references = [("floor: scope all zero", {name: torch.zeros_like(weight) for name, weight in weights.items()})]
    if pruning is not None:
        groups = ranking_groups(pruning, {name: weight.shape for name, weight in weights.items()})
        chosen = select_whole(groups, weights, [group.final for group in groups])
        references.insert(0, (_one_shot(pruning), chosen))
    for name, masks in references:
        for key, weight in weights.items():
            weight.mul_(masks[key])
        rows.append({"name": name, **masked_lm_score(module, validation()), **sparsities(model)})
    return rows


def _one_shot(pruning: PruningConfig) -> str:
    return "one-shot" if pruning.overrides else f"one-shot {pruning.sparsity:.0%}"


def evaluate_folder(
    name: str, data: str, *, rows: int | None, micro_size: int
) -> tuple[dict[str, float | str], Units | None]:
    """Score a run folder, a model folder or a hub id on prepared data, in this process alone.

    Returns:
        A row of a result, and what is left of a model whose structure was pruned.

    Raises:
        ValueError: the model, the data, or their vocabularies do not serve.
    """
    init = str(find_model_folder(name)) if is_local(name) else name
    head = head_of(read_config(init))
    if head is not None:
        raise ModelError(
            f"{name} is a {head}, a task model, and --data asks for the masked-LM scores of a pre-trained one: leave "
            "--data out for the scores of its task, or give the model that it was made from"
        )
    corpus = Corpus.open(data)
    heads = ModelConfig(architecture={}, task="mlm_nsp" if corpus.mode == PAIRS else "mlm")
    model = load_teacher(TeacherConfig(init=init), heads)
    check_vocabulary(model, corpus)
    check_tokenizer(init, corpus)
    settings = DataConfig(path=data, sequence_length=corpus.sequence_length)
    module = MaskedLanguageModeling(model, ObjectiveConfig(ce_weight=1.0, kd_weight=0.0)).to(dist.device())
    validation = validation_batches(corpus, settings, micro_size=micro_size, rows=rows, device=dist.device())
    place = side_file(init, RECIPE_FILE)
    units = Units.of(model.config, read_recipe(place.parent) if place is not None else None)
    row = {"name": name, **masked_lm_score(module, validation), **sparsities(model)}
    return row | (units.row() if units else {}), units
