"""Models from a local folder, a hub id or a random draw, checked against what the run will feed them.

In: the config's `model` and `teacher` sections. Out: stock transformers models in fp32 (the engine casts), or an error
that says what was found, what was expected and what to do, before anything is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ofa.config import ModelConfig, TeacherConfig
from ofa.models.adapters import AdapterError, adapter_for, scope, shape
from ofa.models.fetch import WORDS_OF_OTHERS, explained, quiet, where
from ofa.models.place import ModelError
from ofa.sections.base import likely

LOG = logging.getLogger(__name__)


# ---- configs ----------------------------------------------------------------------------------------------------


def build_config(model: ModelConfig) -> PreTrainedConfig:
    """The transformers config of the student: the architecture's own, or that of `init`, with the dropout override.

    Raises:
        AdapterError: no row for the model_type.
        ModelError: an unknown architecture key, one that disagrees with the config of `init`, or values that make no
            encoder.
    """
    wanted = dict(model.architecture)
    config = read_config(model.init) if model.init is not None else None
    model_type = wanted.setdefault("model_type", config.model_type if config else "")
    adapter = adapter_for(model_type)
    _refuse_unknown_keys(wanted)
    if config is None:
        with _explained_architecture():
            config = AutoConfig.for_model(**wanted)
    else:
        _refuse_disagreement(config, wanted, str(model.init))
    _check_architecture(config)
    if model.task == "mlm_nsp" and adapter.nsp is None:
        raise ModelError(f"model.task mlm_nsp: {adapter.model_type} has no next-sentence head; use task mlm")
    if model.dropout is not None:
        for key in adapter.dropout_keys:
            setattr(config, key, model.dropout)
    return config


def _refuse_unknown_keys(wanted: dict[str, Any]) -> None:
    # transformers keeps any key it is given, so a mistyped size would silently stay at its default.
    default = AutoConfig.for_model(wanted["model_type"])
    known = set(default.to_dict()) | set(default.attribute_map)
    for key in sorted(set(wanted) - known):
        meant = likely(key, sorted(known))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ModelError(f"model.architecture has no key {key} for {wanted['model_type']}{hint}")


def _check_architecture(config: PreTrainedConfig) -> None:
    """Refuse what transformers would build without a word: a model without layers, a decoder."""
    for key, size in asdict(shape(config)).items():
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"model.architecture gives {size!r} {key}: expected a whole number of at least 1")
    for key in ("is_decoder", "add_cross_attention"):
        if getattr(config, key, False):
            raise ModelError(f"model.architecture.{key} is true: only encoders are trained here; remove it")


def _refuse_disagreement(config: PreTrainedConfig, wanted: dict[str, Any], init: str) -> None:
    different = [
        f"{key} is {getattr(config, key, None)!r} there, {value!r} in model.architecture"
        for key, value in wanted.items()
        if getattr(config, key, None) != value
    ]
    if different:
        raise ModelError(f"model.init {init} is another architecture: {'; '.join(different)}")


def read_config(init: str) -> PreTrainedConfig:
    """The transformers config of a folder or hub id.

    Raises:
        ModelError: there is none.
        AdapterError: it is of an architecture without a row.
    """
    with explained(init):
        config = AutoConfig.from_pretrained(**where(init))
    try:
        adapter_for(config.model_type)
    except AdapterError as error:
        raise AdapterError(f"{init}: {error}") from None
    return config


# ---- models -----------------------------------------------------------------------------------------------------


def build_model(model: ModelConfig, *, seed: int) -> PreTrainedModel:
    """The student in fp32, in training mode: see `build_student`."""
    return build_student(model, seed=seed)[0]


def build_student(model: ModelConfig, *, seed: int) -> tuple[PreTrainedModel, frozenset[str]]:
    """The student in fp32, in training mode, and the names of parameters that `init` lacks.

    Weights are drawn from `seed` where `init` gives none; the caller's random state is left alone. Head weights that
    `init` lacks are drawn too and reported in the log, as are weights of `init` that the task has no place for.

    Raises:
        ModelError: `init` cannot be read, lacks encoder or embedding weights, or its decoder came untied.
    """
    config = build_config(model)
    kind = _auto_class(model.task)
    with seeded(seed), _explained_architecture():
        if model.init is None:
            built = kind.from_config(config, dtype=torch.float32, attn_implementation=model.attention)
            report = None
        else:
            built, report = load_model(kind, model.init, config, model.attention)
    scope(built)
    if report is not None:
        _check_report(built, report, model.init or "", complete=False)
    _check_tie(built, model.init or "a fresh model")
    return built.train(), frozenset(report["missing_keys"] if report is not None else ())


def like_student(model: ModelConfig) -> PreTrainedModel:
    """A model of the student's class and sizes, whose weights are not those of `init`.

    Raises:
        ModelError: `init` is not there any more, and so its sizes are unknown.
    """
    with _explained_architecture():
        return _auto_class(model.task).from_config(build_config(model), dtype=torch.float32)


def load_teacher(teacher: TeacherConfig, model: ModelConfig) -> PreTrainedModel:
    """The teacher of a student: fp32, frozen, in evaluation mode, with the student's heads and attention.

    Raises:
        ModelError: `init` cannot be read or lacks any weight; a drawn head would teach noise.
    """
    config = read_config(teacher.init)
    kind = _auto_class(model.task)
    found, wanted = next(iter(config.architectures or []), None), kind._model_mapping[type(config)].__name__
    built, report = load_model(kind, teacher.init, config, model.attention)
    if found not in (None, wanted) and report["missing_keys"]:
        needs = "sentence pairs need" if model.task == "mlm_nsp" else "masked words need"
        raise ModelError(
            f"{teacher.init} is a {found}, and {needs} a {wanted}, complete with its head "
            f"({len(report['missing_keys'])} weights are missing): give a model that was pre-trained on them"
        )
    scope(built)
    _check_report(built, report, teacher.init, complete=True)
    _check_tie(built, teacher.init)
    return built.eval().requires_grad_(False)


def _auto_class(task: Literal["mlm", "mlm_nsp"]) -> Any:
    return AutoModelForPreTraining if task == "mlm_nsp" else AutoModelForMaskedLM


def load_model(
    kind: Any, init: str, config: PreTrainedConfig, attention: str, *, other_sizes: bool = False
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A stock model in fp32, and transformers' report of missing, unexpected and mismatched keys.

    Args:
        kind: an Auto class.
        init: a folder or hub id.
        config: of the model to build.
        attention: implementation.
        other_sizes: draw tensors anew that have another shape in the file; otherwise that is an error.

    Raises:
        ModelError: it cannot be loaded.
    """
    with explained(init), quiet():
        return kind.from_pretrained(
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=other_sizes,
            **where(init),
        )


def load_tokenizer(init: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder or hub id.

    Raises:
        ModelError: there is none, no fast one, or one without padding.
    """
    with explained(init), quiet():
        tokenizer = AutoTokenizer.from_pretrained(**where(init))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{init} has no fast tokenizer (tokenizer.json): character offsets need one")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes where no file gives words
        raise ModelError(f"{init} has no tokenizer: put tokenizer.json, or the files that it is made from, beside it")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {init} has no padding token: name it in tokenizer_config.json (pad_token)")
    return tokenizer


def _check_report(model: PreTrainedModel, report: dict[str, Any], init: str, *, complete: bool) -> None:
    adapter = adapter_for(model.config.model_type)
    missing = sorted(report["missing_keys"])
    pooler = f"{adapter.pooler}."
    needed = [name for name in missing if complete or (name.startswith(f"{adapter.base}.") and pooler not in name)]
    if needed:
        raise ModelError(
            f"{init}: {len(needed)} weights are missing: {', '.join(needed[:4])}; "
            f"{'a teacher must be complete' if complete else 'it is no pre-trained ' + adapter.model_type}"
        )
    if missing:
        LOG.warning("%s has no %s: drawn from the seed", init, ", ".join(missing))
    if report["unexpected_keys"]:
        LOG.info("%s: not used: %s", init, ", ".join(sorted(report["unexpected_keys"])))


def _check_tie(model: PreTrainedModel, init: str) -> None:
    decoder = model.get_submodule(adapter_for(model.config.model_type).decoder)
    if decoder.weight is not model.get_input_embeddings().weight:
        raise ModelError(
            f"{init}: the decoder of the masked-LM head is not tied to the word embedding; "
            "its config.json needs tie_word_embeddings true, and the file one of the two weights or both equal"
        )


@contextmanager
def _explained_architecture() -> Iterator[None]:
    """Whatever transformers and torch raise for sizes and names that cannot be built, as one error of ours.

    Everything is caught: they raise what happens to go wrong first, from KeyError to ZeroDivisionError.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:WORDS_OF_OTHERS]
        raise ModelError(f"model.architecture cannot be built: {type(error).__name__}: {words}") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of a seed inside; those of the caller go on after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
