"""A task model's folder as a folder that a runtime reads, checked before it gets its name.

    model.onnx | openvino_model.xml, .bin   config.json  <tokenizer files>  recipe.json  export.json

The file is reloaded by its runtime and answers rows of the task beside the torch model, and its zeros are counted
anew. One that answers otherwise is an error, and leaves nothing behind: to write first and check later would leave a
folder that looks as good as any.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ofa.export.count import count
from ofa.export.hf import (
    CONFIG_FILE,
    OF_A_COMMAND,
    ExportError,
    check_replaceable,
    copy_tokenizer,
    find_model_folder,
    is_run,
)
from ofa.export.recipe_file import RECIPE_FILE, fingerprint_of_file
from ofa.files import ZSTD_LEVEL, check_space, explained_space, new_folder, write_text, zstd_size
from ofa.models.adapters import scope
from ofa.models.place import MODEL_FOLDER, beside_model
from ofa.runtimes.compare import (
    Difference,
    Tolerance,
    answers,
    difference,
    digests,
    occurrences,
    recount,
    session_logits,
)
from ofa.runtimes.export_file import EXPORT_FILE, encode_export, runtime_files, stands_beside
from ofa.runtimes.formats import Format
from ofa.runtimes.reference import reference
from ofa.runtimes.sample import Rows, Sample, sample_for
from ofa.runtimes.source import Precision, Source, open_source
from ofa.runtimes.to_onnx import OPSET, onnx_program

DEFAULT_ROWS = Rows()


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    format: Format
    precision: Precision | None = None
    """None: int8 where the folder holds trained scales, else fp32."""
    rows: Rows = DEFAULT_ROWS
    """What it is held against."""


def default_output(folder: Path, name: str) -> Path:
    """Where a model goes: beside `model/` in its run folder.

    Raises:
        ExportError: the model stands in no run folder.
    """
    made = beside_model(folder, name)
    if find_model_folder(folder) == made.with_name(MODEL_FOLDER) and is_run(made.parent):
        return made
    raise ExportError(f"{folder} is a model that stands in no run folder: say with --output where the export goes")


def export_to_runtime(folder: Path, output: Path, wanted: Wanted) -> dict[str, Any]:
    """Write a folder, or replace one, in a single step; returns what export.json says.

    Args:
        folder: a run folder or a model folder.
        output: where to.

    Raises:
        MissingExtraError: a package is not installed.
        ExportError: as `open_source`; something else stands at `output`; the file does not hold the model's weights, or
            answers otherwise.
        ValueError: rows of the task are asked for and cannot be read.
        OSError: the disk is full or cannot be written; what stood there still stands.
    """
    wanted.format.check_packages()
    check_replaceable(output, OF_A_COMMAND.occupied, EXPORT_FILE)
    source = open_source(folder, wanted.precision)
    sample = sample_for(source, wanted.rows)
    needed = sum(4 * parameter.numel() for parameter in source.model.parameters())
    check_space(output, "exported model", needed, OF_A_COMMAND.full)
    with explained_space(output.parent, "exported model", OF_A_COMMAND.full), new_folder(output) as building:
        found = _write(building, source, sample, wanted)
        found["beside_its_model"] = stands_beside(output, source.folder)
        for name in (CONFIG_FILE, RECIPE_FILE):
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, building / name)
        copy_tokenizer(source.folder, building)
        files = {path.name: fingerprint_of_file(path) for path in sorted(building.iterdir())}
        found |= {"versions": wanted.format.versions(), "files": files}
        own = [building / name for name in runtime_files(found)]
        size, packed = sum(path.stat().st_size for path in own), sum(map(zstd_size, own))
        found["bytes"] = {"file": size, "zstd": packed, "level": ZSTD_LEVEL}
        write_text(building / EXPORT_FILE, encode_export(found))
    return found


def _write(building: Path, source: Source, sample: Sample, wanted: Wanted) -> dict[str, Any]:
    """The runtime's file, held against the torch model; what is to be said of it."""
    form = wanted.format
    expected = reference(source, sample)
    weights, others = source.stored(), source.constants()
    zeros = sum(count(weight.detach()).zeros for weight in scope(source.model).values())
    program = onnx_program(source.for_the_exporter(), source.inputs)
    path = building / form.file
    form.save(program, path)
    outputs = [one.name for one in program.model.graph.outputs]
    del program
    counted = recount(weights, form.constants(path))
    constants = _constants(others, path, form)
    found = answers(session_logits(form.session(path), source.kind, source.inputs), sample)
    compared = difference(found, expected.answers)
    _check(compared, expected.tolerance, source, sample, form)
    total = sum(weight.size for weight in weights.values())
    tensors = {
        name: {"shape": list(weight.shape), "zeros": counted[name].zeros, "sha256": digests(weight)}
        for name, weight in weights.items()
    }
    return {
        "runtime": form.name,
        "file": form.file,
        "precision": source.precision,
        "opset": OPSET,
        "kind": source.kind,
        "inputs": list(source.inputs),
        "outputs": outputs,
        "model": {one.name: fingerprint_of_file(one) for one in source.files()},
        "compared": {
            "rows": sample.count,
            "asked": wanted.rows.count,
            "of": sample.origin,
            **_apart(compared),
            "tolerance": asdict(expected.tolerance),
            "decisions_held": expected.tolerance.decisions_held(compared),
            "in_floats": expected.in_floats and _apart(expected.in_floats),
            "rounding_noise": expected.rounding_noise and _apart(expected.rounding_noise),
        },
        "zeros": {
            "weights": total,
            "model": zeros,
            "file": sum(one.zeros for one in counted.values()),
            "tensors": tensors,
        },
        "constants": constants,
    }


def _apart(found: Difference) -> dict[str, Any]:
    return {**asdict(found), "equal_decisions": found.equal_decisions}


def _constants(wanted: Mapping[str, np.ndarray], path: Path, form: Format) -> dict[str, Any]:
    """Each as export.json has it: its content, and how many arrays of the file have that.

    Raises:
        ExportError: one is not there, bit for bit.
    """
    sums = {name: digests(array) for name, array in wanted.items()}
    found = occurrences(sums, form.constants(path))
    for name, number in found.items():
        if not number and (form.keeps_scales or not name.endswith(("_scale", "_zero_point"))):
            raise ExportError(f"{name} is not in the exported file as it was trained, bit for bit")
    return {name: {"sha256": sums[name], "count": number} for name, number in found.items() if number}


def _check(compared: Difference, tolerance: Tolerance, source: Source, sample: Sample, form: Format) -> None:
    if not compared.within(tolerance):
        raise ExportError(
            f"{form.runtime} answers otherwise than the torch model in {source.precision}: logits on "
            f"{sample.in_words()} differ {compared.in_words()}; allowed are "
            f"{tolerance.in_words(compared.decisions)}. Nothing was exported"
        )


def export_lines(folder: Path, found: Mapping[str, Any]) -> list[str]:
    """What was written, compared and counted, for people."""
    compared, zeros, sizes = found["compared"], found["zeros"], found["bytes"]
    packed = f"{sizes['file'] / 1e6:.1f} MB, {sizes['zstd'] / 1e6:.1f} MB packed by zstd -{sizes['level']}"
    asked = compared["asked"]
    fewer = f", all that there are ({asked} were asked for)" if asked and compared["rows"] < asked else ""
    more = zeros["file"] - zeros["model"]
    apart = _difference(compared)
    others = {"in int8 and in fp32": "in_floats", "in int8, last bits moved": "rounding_noise"}
    doubt = Tolerance(**compared["tolerance"]).doubt(apart)
    return [
        f"exported to {folder}: {found['file']}, {found['precision']}, {packed}",
        f"held against torch on {compared['rows']} rows of {compared['of']}{fewer}: logits differ {apart.in_words()}",
        *([doubt] if doubt else []),
        *(
            f"torch {what}: logits differ {_difference(compared[key]).in_words()}"
            for what, key in others.items()
            if compared[key]
        ),
        f"zeros in the file: {zeros['file']:,} of {zeros['weights']:,} scoped weights, "
        + (f"the model's {zeros['model']:,} and {more:,} that int8 rounds to 0" if more else "those of the model"),
    ]


def _difference(recorded: Mapping[str, Any]) -> Difference:
    return Difference(**{field.name: recorded[field.name] for field in fields(Difference)})
