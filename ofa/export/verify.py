"""Verify: recount a model folder from its files, hold masks against zeros, reload through stock transformers.

Comes in: a folder of ours, or any sparse checkpoint of a known architecture (without masks.safetensors its zeros are
counted against the scope). Goes out: a list of problems, each with a fixed name, and the counts. Nothing is believed
because `recipe.json` says it; a run's own memory of its masks is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from ofa.export.count import TensorCount, count
from ofa.export.masks_file import MASKS_FILE, MaskFileError, read_masks, read_patterns
from ofa.export.recipe_file import RECIPE_FILE, RecipeFileError, fingerprint_of_file, read_recipe
from ofa.export.reload import read_config, reload_mismatches
from ofa.export.stage import recorded_stage
from ofa.export.targets import Lock, TargetError, recorded_lock, recorded_patterns
from ofa.export.units import Units
from ofa.export.verify_masks import (
    Expectation,
    Problem,
    check_lock,
    check_masks,
    check_patterns,
    check_zeros,
    expectation,
)
from ofa.export.verify_scales import check_scales
from ofa.export.weights import WeightsError, read_weights
from ofa.models.adapters import Adapter, adapter_for
from ofa.models.sparsity import sparsities_of


@dataclass(frozen=True)
class Row:
    """One scoped tensor of the table."""

    name: str
    count: TensorCount
    surplus: int | None
    """Zeros beyond what is expected of this tensor by itself; None where nothing is."""


@dataclass(frozen=True)
class Masks:
    """What a mask file says."""

    keep: dict[str, Tensor]
    patterns: dict[str, str]


@dataclass
class Verification:
    """What was found in a folder."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    sparsities: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_masks: bool = False
    units: Units | None = None
    """What is left of a model whose structure was pruned."""


def verify_folder(folder: str | Path, expect_sparsity: float | None = None) -> Verification:
    """Check a model folder.

    Args:
        folder: the model folder (see `ofa.export.hf.find_model_folder`).
        expect_sparsity: every scoped tensor must have exactly floor(s * numel) dropped weights, or what the recipe's
            pattern, allocation and overrides make of that; without masks.safetensors, or with zeros locked, within one
            weight a tensor, and of a locked model only in the tensors that were locked. None:
            a finished run's recipe is believed about what it asked for, and nothing else is expected.

    Raises:
        AdapterError: the architecture is unknown.
        ValueError: config.json cannot be used.
    """
    folder = Path(folder)
    result = Verification(folder)
    config = read_config(folder)
    recipe, masks = _side_files(folder, result)
    result.units = Units.of(config, recipe)
    try:
        tensors = dict(read_weights(folder))
    except WeightsError as error:
        result.problems.append(Problem("damaged-weights", folder.name, str(error)))
        return result
    names = ScopedNames.of(adapter_for(config.model_type), config, tensors)
    missing = [name for name in names.scope if name not in tensors]
    result.problems += [Problem("missing-tensor", name, "not in the weights file") for name in missing]
    counts = {name: count(tensors[name]) for name in names.scope if name in tensors}
    result.problems += check_numbers(tensors, ours=recipe is not None or masks is not None)
    result.problems += check_scales(folder, tensors)
    lock = recorded_lock(recipe or {})
    if masks is not None:
        drawn = lock.unlocked(names.scope) if lock else []
        result.problems += check_masks(masks.keep, tensors, names.scope, drawn)
        result.problems += check_patterns(masks.keep, masks.patterns)
        result.problems += check_lock(lock, masks.keep) if lock else []
    if recipe is not None:
        result.problems += check_recipe(recipe, folder, counts, expect_sparsity)
    hold_zeros(result, recipe, lock, counts, expect_sparsity, masks)
    result.sparsities = sparsities_of(names.base_model(tensors), counts, [n for n in names.encoder if n in counts])
    mismatches, notes = reload_mismatches(folder, config, tensors)
    result.problems += [Problem("reload", mismatch.name, mismatch.what) for mismatch in mismatches]
    result.notes += notes
    return result


def hold_zeros(
    result: Verification,
    recipe: Mapping[str, Any] | None,
    lock: Lock | None,
    counts: Mapping[str, TensorCount],
    expect_sparsity: float | None,
    masks: Masks | None = None,
    *,
    rounded: bool = False,
) -> None:
    """Put the counts into a result, held against what the recipe or the caller expects of their zeros.

    Args:
        result: gets rows, notes and problems.
        recipe: of the model; None: it has none.
        lock: what the recipe says of zeros that were kept.
        counts: of the scope, by name.
        expect_sparsity: as of `verify_folder`.
        masks: of the folder; None: it has none, and one more or less a tensor passes.
        rounded: 8 bits have made zeros besides, so that more are fine.
    """
    drawn = lock.unlocked(counts) if lock else []
    result.notes += [f"not locked, because the base did not have it: {name}" for name in drawn]
    held = {name: found for name, found in counts.items() if name not in drawn}
    expected = _expectation(recipe, masks, held, expect_sparsity, result)
    if expected is not None:
        expected = replace(expected, more_is_fine=expected.more_is_fine or rounded)
        # A base that was locked may be one of others, which pass within one weight a tensor.
        result.problems += check_zeros(expected, held, exact=masks is not None and lock is None)
    surplus = expected.surplus(held) if expected is not None else {}
    result.rows = [Row(name, found, surplus.get(name)) for name, found in counts.items()]


@dataclass(frozen=True)
class ScopedNames:
    """The scope's names as a weights file spells them: a bare encoder's file has no base prefix."""

    scope: list[str]
    encoder: list[str]
    prefix: str

    @staticmethod
    def of(adapter: Adapter, config: PreTrainedConfig, tensors: Iterable[str]) -> ScopedNames:
        """From the architecture's row; the pooler counts where the file has one."""
        prefix = f"{adapter.base}."
        bare = not any(name.startswith(prefix) for name in tensors)
        encoder = adapter.encoder_names(config)
        pooler = adapter.pooler_name()
        if bare:
            encoder = [name.removeprefix(prefix) for name in encoder]
            pooler = pooler.removeprefix(prefix) if pooler else None
        scope = [*encoder, pooler] if pooler and pooler in set(tensors) else list(encoder)
        return ScopedNames(scope, encoder, "" if bare else prefix)

    def base_model(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base model's parameters: without task heads, and without buffers, which are not floats."""
        return {n: t for n, t in tensors.items() if n.startswith(self.prefix) and t.is_floating_point()}


def check_numbers(tensors: Mapping[str, Tensor], *, ours: bool) -> Iterator[Problem]:
    """Nothing infinite or NaN; in our folders no -0.0 either (the released checkpoints have some)."""
    for name, tensor in tensors.items():
        found = count(tensor)
        if found.not_finite:
            yield Problem("not-finite", name, f"{found.not_finite} of {found.numel} values are NaN or infinite")
        if ours and found.negative_zeros:
            yield Problem("negative-zero", name, f"{found.negative_zeros} values are -0.0, expected +0.0 only")


def check_recipe(
    recipe: Mapping[str, Any], folder: Path, counts: Mapping[str, TensorCount], expect: float | None
) -> Iterator[Problem]:
    """What recipe.json says of scope, counts, sparsity and files is what is there."""
    said = recipe["scope"]["tensors"]
    for name in sorted(said.keys() ^ counts.keys()):
        what = "scoped by the recipe, not by this model" if name in said else "not in the recipe's scope"
        yield Problem("recipe-disagrees", name, what)
    for name in sorted(said.keys() & counts.keys()):
        found = {"numel": counts[name].numel, "zeros": counts[name].zeros}
        if said[name] != found:
            yield Problem("recipe-disagrees", name, f"recipe says {said[name]}, found {found}")
    target = recipe.get("target_sparsity")
    if expect is not None and target is not None and target != expect:
        yield Problem("recipe-disagrees", "target_sparsity", f"recipe says {target}, expected {expect}")
    for name, fingerprint in recipe["files"].items():
        path = folder / name
        if not path.is_file():
            yield Problem("missing-file", name, "recipe.json lists it")
        elif fingerprint_of_file(path) != fingerprint:
            yield Problem("changed-file", name, "its sha256 is not the one that recipe.json recorded at the export")


def _expectation(
    recipe: Mapping[str, Any] | None,
    masks: Masks | None,
    counts: Mapping[str, TensorCount],
    sparsity: float | None,
    result: Verification,
) -> Expectation | None:
    """What the zeros are held against; what the recipe asks of other tensors or patterns is a problem."""
    try:
        result.notes += _stage_notes(recipe or {})
        expected = expectation(recipe, counts, sparsity)
        said = recorded_patterns(recipe or {}, {name: mask.shape for name, mask in masks.keep.items()}) if masks else {}
    except TargetError as error:
        result.problems.append(Problem("recipe-disagrees", "pruning", str(error)))
        return None
    if masks is not None and recipe is not None:
        other = [name for name, pattern in masks.patterns.items() if said[name] != pattern]
        result.problems += [
            Problem("recipe-disagrees", name, f"pattern {said[name]}, {MASKS_FILE} says {masks.patterns[name]}")
            for name in other
        ]
    return expected


def _stage_notes(recipe: Mapping[str, Any]) -> list[str]:
    if "imported" in recipe:
        return [f"imported: {recipe['imported']['format']}"]
    stage = recorded_stage(recipe)
    if stage is None or stage.finished:
        return []
    target = f"; its target is {stage.target}" if stage.pruning else ""
    return [f"from the middle of the run: {stage.origin}{target}"]


def _side_files(folder: Path, result: Verification) -> tuple[dict[str, Any] | None, Masks | None]:
    """recipe.json and masks.safetensors where they exist; one without the other is a problem."""
    recipe = masks = None
    try:
        recipe = read_recipe(folder) if (folder / RECIPE_FILE).exists() else None
        recorded_lock(recipe or {})
    except (RecipeFileError, TargetError) as error:
        recipe = None
        result.problems.append(Problem("damaged-recipe", RECIPE_FILE, str(error)))
    try:
        path = folder / MASKS_FILE
        masks = Masks(read_masks(path), read_patterns(path)) if path.exists() else None
    except MaskFileError as error:
        result.problems.append(Problem("damaged-masks", MASKS_FILE, str(error)))
    result.has_masks = masks is not None
    if masks is not None and not (folder / RECIPE_FILE).exists():
        result.problems.append(Problem("missing-file", RECIPE_FILE, f"{MASKS_FILE} stands without it"))
    if not (folder / MASKS_FILE).exists() and not (folder / RECIPE_FILE).exists():
        result.notes.append(f"no {MASKS_FILE}: zeros are counted against the architecture's scope, within one weight")
    return recipe, masks
