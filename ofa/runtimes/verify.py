"""Verify a folder that was exported to a runtime, from its files.

In: a folder with export.json. Out: what `ofa.export.verify` gives of a model folder: the counts of the scope's weights,
here as the runtime's own file holds them, and problems, each with a fixed name. A weight is found by its bits, so what
is counted is what was exported, whatever names the exporter gave. Then the runtime loads the file and answers rows of
every length; where the model it was made from still stands beside it, the two are compared again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ofa.export.count import TensorCount
from ofa.export.hf import ExportError
from ofa.export.recipe_file import RECIPE_FILE, RecipeFileError, read_recipe
from ofa.export.reload import read_config
from ofa.export.targets import TargetError, recorded_lock
from ofa.export.verify import Verification, hold_zeros
from ofa.export.verify_masks import Problem
from ofa.models.build import load_tokenizer
from ofa.runtimes.compare import Logits, answers, difference, find_weights, occurrences, session_logits
from ofa.runtimes.export_file import EXPORT_FILE, changed_files, model_beside, parse_export, stale_because
from ofa.runtimes.formats import FORMATS, Format, RuntimeFileError, UnknownOpError
from ofa.runtimes.reference import reference
from ofa.runtimes.sample import Sample, drawn
from ofa.runtimes.source import open_source

ROWS = {"fp32": 24, "int8": 200}
"""That the runtime answers, by precision: in 8 bits one decision of 200 may differ, and 512 tokens take their time."""


def verify_export(folder: Path, expect_sparsity: float | None = None) -> Verification:
    """Check a folder.

    Args:
        folder: with export.json.
        expect_sparsity: as of `ofa.export.verify.verify_folder`, within one weight a tensor; in int8, which rounds
            further weights to 0, at least so many.

    Raises:
        MissingExtraError: a package that the format needs is not installed.
    """
    result = Verification(folder)
    try:
        said = parse_export(folder)
    except ExportError as error:
        result.problems.append(Problem("damaged-export", EXPORT_FILE, str(error)))
        return result
    form = FORMATS[said["runtime"]]
    form.check_packages()
    result.problems += [Problem("changed-file", name, what) for name, what in changed_files(folder, said)]
    stale = stale_because(folder, said)
    result.problems += [Problem("stale-export", said["file"], stale)] if stale else []
    result.notes.append(f"{said['precision']} for {form.runtime}")
    try:
        counts, missing = _counted(folder, form, said)
        result.problems += [*missing, *_changed_constants(folder, form, said)]
        _hold(result, said, counts, expect_sparsity)
        result.problems += _answered(folder, form, said, result.notes)
    except UnknownOpError as error:
        result.problems.append(Problem("unknown-op", said["file"], str(error)))
    except RuntimeFileError as error:
        result.problems.append(Problem("damaged-weights", said["file"], str(error)))
    return result


def _counted(folder: Path, form: Format, said: Mapping[str, Any]) -> tuple[dict[str, TensorCount], list[Problem]]:
    """Of the scope's weights in the file, by name, and those that are not in it."""
    tensors = said["zeros"]["tensors"]
    found = find_weights({name: one["sha256"] for name, one in tensors.items()}, form.constants(folder / form.file))
    counts = {name: found[name].with_shape(tensors[name]["shape"]) for name in tensors if name in found}
    missing = [name for name in tensors if name not in found]
    what = f"not in {form.file} as it was exported, bit for bit"
    return counts, [Problem("missing-tensor", name, what) for name in missing]


def _changed_constants(folder: Path, form: Format, said: Mapping[str, Any]) -> Iterator[Problem]:
    """Scales, zero points, biases and further int8 weights that stand in the file less often than they did; those with
    one content in a single line."""
    recorded = said.get("constants", {})
    found = occurrences({name: one["sha256"] for name, one in recorded.items()}, form.constants(folder / form.file))
    equal: dict[tuple[str, ...], list[str]] = {}
    for name, one in recorded.items():
        equal.setdefault(tuple(one["sha256"]), []).append(name)
    for names in equal.values():
        there, before = found[names[0]], recorded[names[0]]["count"]
        if there < before:
            others = f" (or one of {len(names) - 1} that were equal to it: {', '.join(names[1:])})" if names[1:] else ""
            what = f"not in {form.file} as it was trained, bit for bit: {there} of {before} arrays are left{others}"
            yield Problem("changed-constant", names[0], what)


def _hold(
    result: Verification, said: Mapping[str, Any], counts: Mapping[str, TensorCount], asked: float | None
) -> None:
    """Zeros against the recipe of the model, or against what the caller expects."""
    recipe = None
    try:
        if (result.folder / RECIPE_FILE).exists():
            recipe = read_recipe(result.folder)
        hold_zeros(result, recipe, recorded_lock(recipe or {}), counts, asked, rounded=said["precision"] == "int8")
    except (RecipeFileError, TargetError) as error:
        result.problems.append(Problem("damaged-recipe", RECIPE_FILE, str(error)))
    total = sum(one.numel for one in counts.values())
    if total:
        result.sparsities = {"scope_sparsity": sum(one.zeros for one in counts.values()) / total}


def _answered(folder: Path, form: Format, said: Mapping[str, Any], notes: list[str]) -> Iterator[Problem]:
    """What the runtime says of drawn rows."""
    try:
        sample = drawn(read_config(folder), said["kind"], load_tokenizer(str(folder)), ROWS[said["precision"]])
    except ValueError as error:
        yield Problem("reload", folder.name, str(error))
        return
    logits = session_logits(form.session(folder / form.file), said["kind"], said["inputs"])
    found = answers(logits, sample)
    if not np.isfinite(found.logits).all():
        yield Problem("not-finite", form.file, f"logits on {sample.in_words()} are not all finite")
        return
    notes.append(f"{form.runtime} answers {sample.in_words()}")
    yield from _compared(folder, said, sample, logits, notes)


def _compared(
    folder: Path, said: Mapping[str, Any], sample: Sample, logits: Logits, notes: list[str]
) -> Iterator[Problem]:
    """Beside the torch model, where it still stands in the run folder."""
    model = model_beside(folder, said)
    if model is None:
        notes.append("the model that it was made from is not beside it: not compared again")
        return
    try:
        expected = reference(open_source(model, said["precision"]), sample)
    except ValueError as error:
        yield Problem("damaged-model", model.name, str(error))
        return
    apart = difference(answers(logits, sample), expected.answers)
    if not apart.within(expected.tolerance):
        allowed = expected.tolerance.in_words(apart.decisions)
        what = f"logits differ from those of {model} {apart.in_words()}; allowed are {allowed}"
        yield Problem("answers-differ", said["file"], what)
        return
    notes.append(f"logits differ from those of {model.name}/ beside it {apart.in_words()}")
    doubt = expected.tolerance.doubt(apart)
    if doubt is not None:
        notes.append(doubt)
