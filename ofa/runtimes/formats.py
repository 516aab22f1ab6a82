"""The formats that runtimes read: for each how a program is written, run and looked into.

In: a program of `ofa.runtimes.to_onnx`, or a file. Out: a file, a callable of arrays, or the arrays in the file. Where
a runtime cannot read a file, its own words stand in an error that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa.runtimes.extras import load, version
from ofa.runtimes.to_onnx import PACKAGES

Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Inputs by name -> outputs by name."""


WORDS_OF_OTHERS = 300
"""Characters of a runtime's message; some print a stack."""


UNKNOWN_OPS = (
    r"([\w.]*:\w+)\(-?\d+\) is not a registered function/op",  # ONNX Runtime, of another domain
    r"No Op registered for (\w+)",  # of ONNX's own
    r"Could not find an implementation for (\w+)\(",
    r"No conversion rule found for operations: (.+?)(?: --|$)",  # OpenVINO, reading ONNX
    r"doesn't contain the operation with type: (\w+)",  # its own format
    r"Cannot create (\w+) layer",
)
"""How runtimes say which op they lack."""


class RuntimeFileError(ValueError):
    """A file that its runtime cannot read or run."""


class UnknownOpError(RuntimeFileError):
    """A file with an op that its runtime lacks."""


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    name: str
    """On the command line, and of the folder in a run."""
    runtime: str
    """For people."""
    file: str
    """What a runtime is given; other tools look for it under this name."""
    packages: tuple[str, ...]
    """What is needed to write, run and look into it; the last is the runtime's."""
    save: Callable[[Any, Path], None]
    """(program, path) writes the file."""
    session: Callable[..., Session]
    """(path, threads=None) opens the file for so many threads, None: the runtime's choice. Raises RuntimeFileError."""
    constants: Callable[[Path], Iterator[np.ndarray]]
    """Every array that the file holds. Raises RuntimeFileError."""
    keeps_scales: bool
    """Whether scales and zero points stand in its file as they were trained; OpenVINO's has ranges in their place."""

    def check_packages(self) -> None:
        """Refuse to begin without them.

        Raises:
            MissingExtraError: one is not installed.
        """
        for name in self.packages:
            load(name)

    def versions(self) -> dict[str, str]:
        """Of torch and the packages."""
        return {name: version(name) for name in ("torch", *self.packages)}


def _save_onnx(program: Any, path: Path) -> None:
    program.save(path)


def _onnx_session(path: Path, threads: int | None = None) -> Session:
    ort = load("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it would print stands in its exceptions too
    options.intra_op_num_threads = threads or 0
    reader = f"ONNX Runtime {version('onnxruntime')}"
    with _explained(path, reader):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _explained(path, reader):
            return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    return run


def _onnx_constants(path: Path) -> Iterator[np.ndarray]:
    onnx = load("onnx")
    with _explained(path, f"onnx {version('onnx')}"):
        graph = onnx.load(path).graph
        values = (node.attribute[0].t for node in graph.node if node.op_type == "Constant")
        for tensor in (*graph.initializer, *values):
            yield onnx.numpy_helper.to_array(tensor)


@contextmanager
def _explained(path: Path, reader: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # runtimes have classes of their own for it, and several
        words = " ".join(str(error).split())
        lacking = next((found[1] for pattern in UNKNOWN_OPS if (found := re.search(pattern, words))), None)
        if lacking is not None:
            raise UnknownOpError(
                f"{path} needs the op {lacking}, which {reader} does not have: export the model for another runtime "
                "(launch/export.py --format), or use a version that has it"
            ) from None
        raise RuntimeFileError(
            f"{path} cannot be read by {reader}: it is damaged, cut short, or needs what that version lacks: "
            f"{words[:WORDS_OF_OTHERS]}"
        ) from None


def _save_openvino(program: Any, path: Path) -> None:
    """OpenVINO's own reader of ONNX; its `convert_model` would do the same and report the use to its makers."""
    openvino = load("openvino")
    between = path.with_name("between.onnx")
    _save_onnx(program, between)
    with _explained(between, f"OpenVINO {version('openvino')}"):
        model = openvino.Core().read_model(between)
    openvino.save_model(model, path, compress_to_fp16=False)
    between.unlink()


def _openvino_session(path: Path, threads: int | None = None) -> Session:
    openvino = load("openvino")
    reader = f"OpenVINO {version('openvino')}"
    # Without the hint a CPU that has bf16 computes in it what is in fp32 here.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or 0}
    with _explained(path, reader):
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", options)
    names = [one.get_any_name() for one in compiled.outputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _explained(path, reader):
            found = compiled(dict(inputs))
        return {name: np.array(found[name]) for name in names}

    return run


def _openvino_constants(path: Path) -> Iterator[np.ndarray]:
    openvino = load("openvino")
    with _explained(path, f"OpenVINO {version('openvino')}"):
        for op in openvino.Core().read_model(path).get_ops():
            if op.get_type_name() == "Constant":
                yield op.data


ONNX = Format(
    "onnx", "ONNX Runtime", "model.onnx", (*PACKAGES, "onnxruntime"), _save_onnx, _onnx_session, _onnx_constants, True
)
OPENVINO = Format(
    "openvino",
    "OpenVINO",
    "openvino_model.xml",
    (*PACKAGES, "openvino"),
    _save_openvino,
    _openvino_session,
    _openvino_constants,
    keeps_scales=False,
)

FORMATS = {one.name: one for one in (ONNX, OPENVINO)}
"""By name."""
