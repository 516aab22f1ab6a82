"""Folders that a benchmark compares: a dense model and a sparse one of the same task, on torch and exported."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ofa.runtimes.export import Wanted, export_to_runtime
from ofa.runtimes.formats import FORMATS
from ofa.runtimes.sample import Rows
from tests.inference_cases import LENGTH, Case, put_scales, write_case
from tests.task_folders import write_task_model


@dataclass
class Folders:
    """Run folders by what stands in them, and the data of their task."""

    project: Path
    """Holds `dense` (a run with all exports), `sparse` (50 % zeros; torch, ONNX) and `int8` (the same in 8 bits)."""
    data: Path


EVERY_FORM = {"dense": FORMATS, "sparse": ["onnx"], "int8": ["onnx"]}
"""What each model is exported to."""


def write_models(project, exports=EVERY_FORM):
    """All of `Folders` below `project`, or less of the exports."""
    case = write_case(project / "case", "single")
    section = {"text_column": "review", "label_column": "label", "max_length": LENGTH}
    dense = project / "dense" / "model"
    tokenizer = case.model.parent / "tokenizer"
    write_task_model(dense, "text_classification", tokenizer, names=["o", "n"], sparsity=0.0, **section)
    for name in ("sparse", "int8"):
        shutil.copytree(case.model, project / name / "model")
    put_scales(Case(case.kind, project / "int8" / "model", case.data, case.texts, None, case.ids))
    for name, forms in exports.items():
        for form in forms:
            rows = Rows(4, path=str(case.data.parent))
            export_to_runtime(project / name / "model", project / name / form, Wanted(FORMATS[form], rows=rows))
    task = {"name": "text_classification", "path": "gone", **section}
    record = {"config": {"task": task}, "data_fingerprint": "cd", "versions": {}}
    (project / "dense" / "config.json").write_text(json.dumps(record))
    return Folders(project, case.data.parent)
