"""Models from a local folder, a hub id or a random draw, checked against what the run will feed them.

In: the config's `model` and `teacher` sections. Out: stock transformers models in fp32 (the engine casts), or an error
that says what was found, what was expected and what to do, before anything is trained.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from ofa.config import ModelConfig, ObjectiveConfig, TeacherConfig
from ofa.data.shards import Corpus, tokenizer_fingerprint
from ofa.models.adapters import AdapterError, adapter_for, scope, shape
from ofa.models.place import ModelError, check_place, is_local

LOG = logging.getLogger(__name__)

VOCABULARY_PADDING = 128
"""A model may have up to this many more entries than the tokenizer, minus one: rows added for alignment."""


WORDS_OF_OTHERS = 300
"""Characters of another library's message that are passed on."""


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
        near = difflib.get_close_matches(key, sorted(known), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
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
    with _explained(init):
        config = AutoConfig.from_pretrained(**_place(init))
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
    with _explained(init), _quiet():
        return kind.from_pretrained(
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=other_sizes,
            **_place(init),
        )


def load_tokenizer(init: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder or hub id.

    Raises:
        ModelError: there is none, no fast one, or one without padding.
    """
    with _explained(init), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(**_place(init))
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


# ---- what must fit together -------------------------------------------------------------------------------------


def check_vocabulary(model: PreTrainedModel, corpus: Corpus) -> None:
    """Refuse a model whose vocabulary or positions cannot hold the corpus.

    Raises:
        ModelError: fewer entries than the tokenizer, so many more that it is another tokenizer's, or rows longer than
            the position embeddings.
    """
    entries, needed = model.config.vocab_size, corpus.vocab_size
    if not needed <= entries < needed + VOCABULARY_PADDING:
        raise ModelError(
            f"the model's vocabulary has {entries} entries, the tokenizer of {corpus.path} {needed}; they must be "
            f"equal (or the model padded by less than {VOCABULARY_PADDING}): set model.architecture.vocab_size, or "
            "prepare the data with the model's tokenizer"
        )
    adapter = adapter_for(model.config.model_type)
    longest = adapter.longest_sequence(model.config)
    if corpus.sequence_length > longest:
        raise ModelError(
            f"rows of {corpus.path} have up to {corpus.sequence_length} tokens, the model's position embeddings cover "
            f"{longest}: set model.architecture.max_position_embeddings or prepare shorter rows"
        )


def check_tokenizer(init: str | None, corpus: Corpus) -> None:
    """Refuse a model folder whose tokenizer is not the corpus's; a folder without tokenizer.json is let through.

    Raises:
        ModelError: the fingerprints differ.
    """
    if init is None or not (Path(init).expanduser() / "tokenizer.json").is_file():
        return
    if tokenizer_fingerprint(Path(init).expanduser()) != corpus.tokenizer_fingerprint:
        raise ModelError(
            f"the tokenizer in {init} is not the one that {corpus.path} was prepared with, so the same ids mean other "
            "words; set model.init and teacher.init to a model that was trained on this data, or prepare the data with "
            "tokenizer.init set to that folder"
        )


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel, objective: ObjectiveConfig) -> None:
    """Refuse a teacher whose outputs cannot be compared with the student's.

    Raises:
        ModelError: vocabularies differ, or hidden states are to be compared and differ in size.
    """
    ours, theirs = student.config, teacher.config
    if ours.vocab_size != theirs.vocab_size:
        raise ModelError(
            f"the teacher's vocabulary has {theirs.vocab_size} entries, the student's {ours.vocab_size}; "
            "distillation compares logits entry by entry: both must use one tokenizer"
        )
    if objective.hidden_weight and ours.hidden_size != theirs.hidden_size:
        raise ModelError(
            f"objective.hidden_weight compares hidden states, but the teacher's size is {theirs.hidden_size} and the "
            f"student's {ours.hidden_size}; set hidden_weight to 0"
        )
    theirs_longest = adapter_for(theirs.model_type).longest_sequence(theirs)
    if theirs_longest < adapter_for(ours.model_type).longest_sequence(ours):
        LOG.warning("the teacher's position embeddings cover %d tokens, fewer than the student's", theirs_longest)


# ---- where weights come from --------------------------------------------------------------------------------------


def side_file(init: str, name: str) -> Path | None:
    """A file that stands beside a model's weights, in its folder or on the hub; None if there is none.

    Raises:
        ModelError: there is no such model.
    """
    with _explained(init), _quiet():
        found = cached_file(init if not is_local(init) else str(Path(init).expanduser()), name, **_OPTIONAL)
    return None if found is None else Path(found)


_OPTIONAL = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_connection_errors": False,
}


def _place(init: str) -> dict[str, Any]:
    local = is_local(init)
    name = str(Path(init).expanduser()) if local else init
    return {"pretrained_model_name_or_path": name, "local_files_only": local}


@contextmanager
def _explained(init: str) -> Iterator[None]:
    """Turn the many ways in which transformers says "no such model" into one error that says what to do."""
    check_place(init)
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # a damaged file may break anything in their readers
        first_line = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:WORDS_OF_OTHERS]
        if is_local(init):
            raise ModelError(f"model folder {init} cannot be loaded: {first_line}") from error
        raise ModelError(
            f"{init} is neither a local folder nor a model that could be fetched from the hub: {first_line}. Offline, "
            "download it elsewhere and give the folder's path"
        ) from error


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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no table of unused weights: the log names them in one line."""
    level, had_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if had_bars:
            transformers.logging.enable_progress_bar()
