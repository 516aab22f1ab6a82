"""A finished task model as one callable: texts in, labels or answers out, whichever runtime computes.

In: a folder of torch (stock, compact, in 8 bits), ONNX Runtime or OpenVINO, a run folder that holds one, or a hub id.
Out: a `Predictor`.

    predict = load("runs/downstream/sst2")
    predict(["a good film", "a bad one"])          # [{"label": "positive", "probabilities": {...}}, ...]

transformers' pipelines were not built upon: they know one runtime, and have other rules for answers, words and pairs
than those by which a model was scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ofa import dist
from ofa.config import TaskConfig, parse
from ofa.data.tasks import QUESTIONS_LENGTH, Kind, task_for
from ofa.downstream.evaluate_model import NAMED_IN, Origin, matched_classes, origin_of
from ofa.downstream.qat.load import load_as_trained
from ofa.downstream.task_data import OpenTask, check_length
from ofa.export.hf import find_model_folder, is_run
from ofa.export.recipe_file import fingerprint_of_file
from ofa.export.weights import INDEXED, SINGLE
from ofa.models.adapters import adapter_for
from ofa.models.build import load_tokenizer, read_config
from ofa.models.fetch import side_file
from ofa.models.place import ModelError, is_local
from ofa.models.task_models import kind_of
from ofa.models.task_training import TaskTeacher
from ofa.predictor import InferenceError, Predictor
from ofa.runtimes.compare import session_logits
from ofa.runtimes.export_file import is_export, read_export
from ofa.runtimes.formats import FORMATS

TORCH = "torch"
RUNTIMES = (TORCH, *FORMATS)
"""Who can compute."""

LONGEST = 512
"""Tokens of a row for a model that does not say what it was trained on; its positions may reach further."""

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""Files that say which word an id is."""

STRIDE: int = TaskConfig.model_fields["stride"].default

GENERIC: dict[Kind, dict[str, str]] = {
    "classification": {"name": "text_classification", "text_column": "text", "label_column": "label"},
    "regression": {"name": "text_regression", "text_column": "text", "label_column": "label"},
    "tokens": {"name": "token_classification", "text_column": "text", "label_column": "label"},
    "questions": {"name": "squad"},
}
"""The task section of a model that does not say what it was trained on."""


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    max_length: int | None = None,
    task: TaskConfig | None = None,
) -> Predictor:
    """Open a finished task model.

    Args:
        path: a folder, exported by this project or loadable by stock transformers; a run folder; a hub id.
        runtime: of RUNTIMES; None: what the folder was exported to, else torch. In a run folder it says which of its
            exports is meant.
        threads: of one forward; None: the runtime's own choice.
        device: of torch; None: the accelerator if there is one. The other runtimes compute on the CPU.
        max_length: tokens of a row; longer texts are cut, contexts become several windows. None: as it was trained.
        task: how rows are made and classes are called, in place of the section that it was trained with; the length
            of a row is then this section's.

    Raises:
        ModelError: no model there, or damaged; classes without names; another tokenizer.
        InferenceError: a model without the head of a task, or a runtime that the folder was not exported to.
        ExportError: an exported folder that is not whole, or whose model has changed since.
        MissingExtraError: the runtime is not installed.
        RuntimeFileError: the runtime cannot read the file.
    """
    name = str(path)
    init, exported = _place(name, runtime)
    config = read_config(init)
    kind = _task_kind(config, name)
    origin, tokenizer = origin_of(init), load_tokenizer(init)
    _check_tokenizer(init, origin, name)
    settings = task or _settings(origin.task, kind, config, tokenizer, max_length)
    row = task_for(settings)
    if row.kind != kind:
        raise ModelError(
            f"{name} is a model of {kind}, and what it was trained on, {row.name}, is a task of {row.kind}"
        )
    row, order = matched_classes(config, row, name, NAMED_IN)
    check_length(row, init)  # a model of another task is said to be that, however long the rows
    paired = {"questions": True, "tokens": False}.get(kind, row.pair is not None if task or origin.task else None)
    opened = OpenTask(settings, row, tokenizer)
    if exported is None:
        place = _device(device)
        outputs_of = TaskTeacher(load_as_trained(init, kind, place), kind, order).to(place).targets
        return Predictor(name, opened, config, TORCH, paired, outputs_of, place, threads)
    form, place = FORMATS[exported["runtime"]], _device(device or "cpu")
    if place.type != "cpu":
        raise InferenceError(f"{form.runtime} computes on the CPU here, not on {place}: leave device out")
    logits = session_logits(form.session(Path(init) / form.file, threads), kind, exported["inputs"])
    outputs_of = logits if order is None else lambda batch: logits(batch)[..., order]
    return Predictor(name, opened, config, form.name, paired, outputs_of, place, None)


def _place(name: str, runtime: str | None) -> tuple[str, dict[str, Any] | None]:
    """Where the model stands, and what its export.json says; None: torch reads it."""
    if runtime not in (None, *RUNTIMES):
        raise InferenceError(f"no runtime {runtime!r}: known are {', '.join(RUNTIMES)}")
    if not is_local(name):
        if runtime not in (None, TORCH):
            raise InferenceError(f"{name} is a hub id, which torch reads: export it for {FORMATS[runtime].runtime}")
        return name, None
    folder = Path(name).expanduser()
    inside = folder / (runtime or "")
    if runtime in FORMATS and is_run(folder) and inside.is_dir():
        folder = inside
    if is_export(folder) or _looks_exported(folder):
        found = read_export(folder)
        if runtime not in (None, found["runtime"]):
            raise InferenceError(f"{folder} was exported to {found['runtime']}, not to {runtime}: give that folder")
        return str(folder), found
    if runtime in FORMATS:
        raise InferenceError(
            f"{name} was not exported to {FORMATS[runtime].runtime}; make it with: "
            f"python launch/export.py {name} --format {runtime}"
        )
    return str(find_model_folder(folder)), None


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        return dist.device()
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise InferenceError(f"no device {wanted!r} here: {str(error).splitlines()[0]}") from None


def _looks_exported(folder: Path) -> bool:
    """Whether a runtime's file stands there in place of torch's weights."""
    has_weights = any((folder / name).is_file() for name in (*SINGLE, *INDEXED))
    return not has_weights and any((folder / form.file).is_file() for form in FORMATS.values())


def _task_kind(config: PreTrainedConfig, name: str) -> Kind:
    adapter_for(config.model_type)
    kind = kind_of(config)
    if kind is None:
        what = (config.architectures or ["an encoder without a head"])[0]
        raise InferenceError(f"{name} is {what}; expected a task model: fine-tune it first (launch/finetune.py)")
    if config.problem_type == "multi_label_classification":
        raise InferenceError(f"{name} gives several classes to one text; expected a model that gives one")
    return kind


def _check_tokenizer(init: str, origin: Origin, name: str) -> None:
    """Refuse words that are not those that the model was trained on, where its recipe says which these are."""
    sums = origin.recipe.get("files", {})
    for file in VOCABULARIES:
        path = side_file(init, file) if file in sums else None
        if path is not None and fingerprint_of_file(path) != sums[file]:
            raise ModelError(
                f"{path} is not the tokenizer that {name} was trained with (its recipe.json has another sha256): the "
                "same ids would mean other words; put the model's own beside it"
            )


def _settings(
    recorded: Any, kind: Kind, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, max_length: int | None
) -> TaskConfig:
    """The task section that a model was trained with, or what suits one that does not say; no files are read by it."""
    values: dict[str, Any] = {**(recorded or GENERIC[kind]), "path": ".", "dataset": None}
    if max_length is None and not recorded:
        reach = min(adapter_for(config.model_type).longest_sequence(config), tokenizer.model_max_length)
        max_length = min(reach, QUESTIONS_LENGTH if kind == "questions" else LONGEST)
    if max_length is not None:
        # A third of a window is less than what the longest question leaves of it, so that each has something new.
        values |= {"max_length": max_length, "stride": min(values.get("stride", STRIDE), max_length // 3)}
    return parse(TaskConfig, values, origin="task")
