"""Which models are measured: folders in, what each of them is out, before anything is timed.

    dense=runs/dense       a run folder: its model/ on torch, and what of it was exported, each on its own runtime
    int8=runs/qat/onnx     one folder
    runs/cofi/onnx         likewise, called cofi

One name stands for one model on any number of runtimes. What is compared without saying so - another task, an export of
other weights under the same name, a dense model that is not dense - is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa.data.tasks import Kind
from ofa.downstream.evaluate_model import origin_of
from ofa.export.hf import MODEL_FOLDER, find_model_folder, is_model, is_run
from ofa.export.quantization_file import QUANTIZATION_FILE
from ofa.export.recipe_file import fingerprint_of_file
from ofa.export.weights import weight_files
from ofa.files import zstd_size
from ofa.inference import TORCH, load
from ofa.models.adapters import adapter_for, scope
from ofa.models.place import named
from ofa.models.task_models import load_task_model
from ofa.predictor import Predictor
from ofa.runtimes.export_file import is_export, read_export, runtime_files
from ofa.runtimes.formats import FORMATS

DENSE = 0.01
"""Share of zeros below which a model is dense; a trained weight is hardly ever 0 by itself."""

FP32, INT8, SIMULATED = "fp32", "int8", "int8 in fp32"
"""In which numbers a model computes; the last on torch, which rounds as int8 would and multiplies in fp32."""


class BenchmarkError(ValueError):
    """Models or settings that cannot be measured together: what was found, what to give."""


@dataclass(frozen=True)
class Place:
    """A model on a runtime."""

    name: str
    runtime: str
    """Of `ofa.inference.RUNTIMES`."""
    folder: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.name, self.runtime

    def in_words(self) -> str:
        """`sparse on ONNX Runtime`"""
        return f"{self.name} on {runtime_name(self.runtime)}"


@dataclass(frozen=True)
class Model:
    """What is known of one without timing it."""

    place: Place
    precision: str
    stock: bool
    """A stock class of transformers computes."""
    task: str | None
    """That it was fine-tuned on, where it says so."""
    kind: Kind
    labels: tuple[str, ...]
    vocabulary: int
    longest: int
    """Tokens of its longest row."""
    weights: int
    """Of the scope (`ofa.models.adapters.scope`)."""
    zeros: int
    """Among these, of the model before it is rounded to 8 bits: what was pruned."""
    file_zeros: int
    """Among these, as the file holds them: also those that int8 rounds to 0, some in a hundred of a dense model."""
    file_bytes: int
    """Of what its runtime reads, without tokenizer and JSON."""
    zstd_bytes: int
    """The same, each file packed at ZSTD_LEVEL."""
    came_from: Mapping[str, str]
    """sha256 of the torch weights, its own or those that it was exported from, by file."""

    @property
    def sparsity(self) -> float:
        """Share of zeros, before any rounding."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def file_sparsity(self) -> float:
        """The same of the file."""
        return self.file_zeros / self.weights if self.weights else 0.0

    def answers(self) -> str:
        """What it says of a text: `classification into negative, positive`."""
        return f"{self.kind} into {', '.join(self.labels)}" if self.labels else self.kind


def runtime_name(runtime: str) -> str:
    """For people."""
    return FORMATS[runtime].runtime if runtime in FORMATS else runtime


def places_of(arguments: Iterable[str]) -> list[Place]:
    """Models on their runtimes, in the order given.

    Args:
        arguments: `NAME=FOLDER` or `FOLDER`.

    Raises:
        ExportError: no model there.
        BenchmarkError: a name stands for two folders of one runtime.
    """
    found: dict[tuple[str, str], Place] = {}
    for argument in arguments:
        name, text = named(argument)
        for place in _of_folder(name, Path(text).expanduser()):
            before = found.setdefault(place.key, place)
            if before is not place:
                raise BenchmarkError(
                    f"{place.in_words()} is both {before.folder} and {place.folder}: give each a name of its own, "
                    "NAME=FOLDER"
                )
    return list(found.values())


def _of_folder(name: str, folder: Path) -> list[Place]:
    if is_export(folder):
        return [Place(name or _own_name(folder), read_export(folder)["runtime"], str(folder))]
    model = find_model_folder(folder)
    name = name or _own_name(folder)
    found = [Place(name, TORCH, str(model))]
    if is_run(folder) and is_model(folder / MODEL_FOLDER):
        inside = [(form, folder / form) for form in FORMATS]
        found += [Place(name, form, str(path)) for form, path in inside if is_export(path)]
    return found


def _own_name(folder: Path) -> str:
    """`runs/sst2`, `runs/sst2/model` and `runs/sst2/onnx` are called sst2."""
    folder = folder.resolve()
    return (folder.parent if folder.name in (MODEL_FOLDER, *FORMATS) else folder).name


def described(place: Place) -> Model:
    """Open a model and say what it is.

    Raises:
        ValueError: as `ofa.inference.load`: no model, damaged, changed since its export, its runtime not installed.
    """
    predictor = load(place.folder, device="cpu")
    if place.runtime == TORCH:
        return _of_torch(place, predictor)
    found, folder = read_export(Path(place.folder)), Path(place.folder)
    files = [folder / name for name in runtime_files(found)]
    counts = found["zeros"]["weights"], found["zeros"]["model"], found["zeros"]["file"]
    came_from = {name: one for name, one in found["model"].items() if name != QUANTIZATION_FILE}
    return _model(place, predictor, found["precision"], False, counts, files, came_from)


def _of_torch(place: Place, predictor: Predictor) -> Model:
    folder = Path(place.folder)
    files, scales = weight_files(folder), folder / QUANTIZATION_FILE
    model = load_task_model(place.folder, predictor.kind)
    weights = scope(model).values()
    zeros = sum(one.numel() - int(one.count_nonzero()) for one in weights)
    counts = sum(one.numel() for one in weights), zeros, zeros
    stock = type(model).__module__.startswith("transformers.")
    came_from = {path.name: fingerprint_of_file(path) for path in files}
    if scales.is_file():
        return _model(place, predictor, SIMULATED, False, counts, [*files, scales], came_from)
    return _model(place, predictor, FP32, stock, counts, files, came_from)


def _model(
    place: Place,
    predictor: Predictor,
    precision: str,
    stock: bool,
    counts: tuple[int, int, int],
    files: Sequence[Path],
    came_from: Mapping[str, str],
) -> Model:
    config = predictor.model_config
    return Model(
        place,
        precision,
        stock,
        origin_of(place.folder).task.get("name"),
        predictor.kind,
        predictor.labels,
        config.vocab_size,
        adapter_for(config.model_type).longest_sequence(config),
        *counts,
        sum(path.stat().st_size for path in files),
        sum(map(zstd_size, files)),
        came_from,
    )


def check_together(models: Sequence[Model], dense: str | None, length: int) -> None:
    """Refuse what cannot be compared.

    Args:
        models: all of them.
        dense: name of the one that speed-ups are over.
        length: tokens of the longest rows.

    Raises:
        BenchmarkError: naming two models, or the one that does not fit.
    """
    for model in models:
        if model.longest < length:
            raise BenchmarkError(
                f"{model.place.folder} takes rows of up to {model.longest} tokens, and --length says {length}: lower it"
            )
    _check_one_task(models)
    _check_one_model_a_name(models)
    if dense is None:
        return
    named = [model for model in models if model.place.name == dense]
    if not named:
        names = ", ".join(dict.fromkeys(model.place.name for model in models))
        raise BenchmarkError(f"--dense {dense} is none of the models ({names})")
    for model in named:
        _check_dense(model)


def _check_one_task(models: Sequence[Model]) -> None:
    first = models[0]
    for other in models[1:]:
        same_names = {one.lower() for one in first.labels} == {one.lower() for one in other.labels}
        if other.kind != first.kind or not same_names:
            raise BenchmarkError(
                f"{other.place.folder} is a model of another task: it does {other.answers()}, and "
                f"{first.place.folder} does {first.answers()}; measure them apart"
            )
    tasks = {model.task: model for model in models if model.task is not None}
    if len(tasks) > 1:
        (one, at), (two, there) = list(tasks.items())[:2]
        raise BenchmarkError(
            f"{there.place.folder} was fine-tuned on {two}, {at.place.folder} on {one}: measure them apart"
        )


def _check_one_model_a_name(models: Sequence[Model]) -> None:
    first: dict[str, Model] = {}
    for model in models:
        other = first.setdefault(model.place.name, model)
        if model.came_from != other.came_from:
            raise BenchmarkError(
                f"{model.place.folder} does not have the weights of {other.place.folder}, and both are called "
                f"{model.place.name}: export the model again, or give each a name of its own, NAME=FOLDER"
            )


def _check_dense(model: Model) -> None:
    folder, name = model.place.folder, model.place.name
    if model.precision != FP32:
        raise BenchmarkError(
            f"--dense {name}: {folder} computes in {model.precision}; speed-ups are over fp32 (launch/export.py "
            "--precision fp32)"
        )
    if model.sparsity >= DENSE:
        raise BenchmarkError(f"--dense {name}: {folder} has {model.sparsity:.1%} zeros: it is not dense")
    if model.place.runtime == TORCH and not model.stock:
        raise BenchmarkError(f"--dense {name}: {folder} was cut to a structure: expected a stock model of transformers")
