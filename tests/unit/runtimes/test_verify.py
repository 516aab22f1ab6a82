"""Verify of exported folders: what is counted in the runtime's file, what it answers, and every kind of damage."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors
import safetensors.torch

from ofa.export.hf import ExportError
from ofa.export.quantization_file import QUANTIZATION_FILE
from ofa.export.recipe_file import fingerprint_of_file
from ofa.export.verify import verify_folder
from ofa.inference import load
from ofa.models.adapters import scope
from ofa.runtimes.export import Wanted, export_to_runtime
from ofa.runtimes.export_file import EXPORT_FILE
from ofa.runtimes.extras import MissingExtraError
from ofa.runtimes.formats import FORMATS
from ofa.runtimes.sample import Rows
from ofa.runtimes.verify import ROWS, verify_export
from tests.commands import command, edit, flip
from tests.runtime_cases import calibrate, sparse
from tests.task_parts import save_model

PRECISIONS = ("fp32", "int8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sparse classifier with scales in `model`, and its exports: `onnx-fp32`, `onnx-int8` and of OpenVINO alike."""
    place, model = tmp_path_factory.mktemp("whole"), sparse("bert")
    calibrate(save_model(place / "model", model), model)
    for form in FORMATS.values():
        for precision in PRECISIONS:
            wanted = Wanted(form, precision, Rows(8))
            export_to_runtime(place / "model", place / f"{form.name}-{precision}", wanted)
    return place


@pytest.fixture
def made(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "made")


def kinds(folder, **more):
    """Problems by name."""
    return [(problem.kind, problem.where) for problem in verify_export(folder, **more).problems]


def rewritten(folder, change):
    """Change the graph of an ONNX folder, whose sums then are right again."""
    path = folder / "model.onnx"
    graph = onnx.load(path)
    change(graph.graph)
    onnx.save(graph, path)
    edit(folder / EXPORT_FILE, lambda said: said["files"].update({path.name: fingerprint_of_file(path)}))


def changed(graph, name, change):
    """Replace the array of an initializer."""
    (tensor,) = [one for one in graph.initializer if one.name == name]
    array = onnx.numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_was_exported_is_counted_in_its_file_and_answers_as_torch(whole, name, precision):
    found = verify_export(whole / f"{name}-{precision}")
    zeros = {name: int((weight == 0).sum()) for name, weight in scope(sparse("bert")).items()}
    counted = {row.name: row.count.zeros for row in found.rows}
    assert found.problems == [] and counted.keys() == zeros.keys()
    assert all(counted[name] == zeros[name] if precision == "fp32" else counted[name] >= zeros[name] for name in zeros)
    assert found.notes[0] == f"{precision} for {FORMATS[name].runtime}"
    assert found.notes[-1].startswith("logits differ from those of model/ beside it by up to")


def test_one_that_stands_alone_is_counted_and_asked(made):
    shutil.rmtree(made / "model")
    found = verify_export(made / "onnx-int8")
    assert found.problems == [] and len(found.rows) == len(scope(sparse("bert")))
    assert found.notes[-2:] == [
        "ONNX Runtime answers 200 rows of words drawn from its vocabulary",
        "the model that it was made from is not beside it: not compared again",
    ]


def test_zeros_are_held_against_what_is_expected(whole):
    """Half of each tensor; 8 bits may have more."""
    for precision in PRECISIONS:
        assert kinds(whole / f"onnx-{precision}", expect_sparsity=0.5) == []
        assert {kind for kind, _ in kinds(whole / f"onnx-{precision}", expect_sparsity=0.9)} == {"wrong-count"}
    assert {kind for kind, _ in kinds(whole / "onnx-fp32", expect_sparsity=0.1)} == {"wrong-count"}
    assert kinds(whole / "onnx-int8", expect_sparsity=0.1) == []


def test_a_scoped_weight_that_was_changed_is_missing(made):
    """Whatever the sums say: one number is enough."""
    name = next(iter(json.loads((made / "onnx-int8" / EXPORT_FILE).read_text())["zeros"]["tensors"]))
    rewritten(made / "onnx-int8", lambda graph: changed(graph, f"{name}_int8", lambda array: array.put(0, 77)))
    assert ("missing-tensor", name) in kinds(made / "onnx-int8")


@pytest.mark.parametrize(
    "name", ["intermediate.dense.weight_scale", "intermediate.dense.input_scale", "intermediate.dense.input_zero_point"]
)
def test_a_scale_or_zero_point_that_was_changed_is_named(made, name):
    name = f"bert.encoder.layer.1.{name}"

    def damage(array):
        array.put(0, array.flat[0] // 2 + 1)

    rewritten(made / "onnx-int8", lambda graph: changed(graph, name, damage))
    assert ("changed-constant", name) in kinds(made / "onnx-int8")


@pytest.mark.parametrize("name", ["bert.encoder.layer.0.output.dense.bias", "classifier.bias", "classifier.weight"])
def test_a_bias_or_a_weight_of_the_head_that_was_changed_is_named(made, name):
    in_file = name.replace(".weight", ".weight_int8")
    rewritten(made / "onnx-int8", lambda graph: changed(graph, in_file, lambda array: array.put(0, 17)))
    assert ("changed-constant", name) in kinds(made / "onnx-int8")


@pytest.mark.parametrize(
    ("value", "expected"), [(5.0, ("answers-differ", "model.onnx")), (np.nan, ("not-finite", "model.onnx"))]
)
def test_other_answers_are_found(made, value, expected):
    """A norm's bias is no scoped weight, and nothing but the answers shows it."""
    name = "bert.embeddings.LayerNorm.bias"
    rewritten(made / "onnx-fp32", lambda graph: changed(graph, name, lambda array: array.put(0, value)))
    assert kinds(made / "onnx-fp32") == [expected]


@pytest.mark.parametrize("name", ["token_type_embeddings", "position_embeddings"])
def test_the_last_segment_and_position_are_asked_for(made, name):
    name = f"bert.embeddings.{name}.weight"
    rewritten(made / "onnx-fp32", lambda graph: changed(graph, name, lambda array: array[-1].__imul__(-50)))
    assert kinds(made / "onnx-fp32") == [("answers-differ", "model.onnx")]


def test_an_export_of_wrong_scales_is_told_by_the_model(made):
    """Torch is asked under them as well, and says the same."""
    folder, scales = made / "onnx-int8", made / "model" / QUANTIZATION_FILE
    damaged(lambda tensors, name: tensors[name].mul_(0.05))(scales)
    edit(folder / EXPORT_FILE, lambda said: said["model"].update({scales.name: fingerprint_of_file(scales)}))
    assert ("damaged-model", "model") in kinds(folder)


def test_what_the_rows_do_not_show_is_noted(made, monkeypatch):
    monkeypatch.setitem(ROWS, "int8", 150)
    found = verify_export(made / "onnx-int8")
    assert found.problems == [] and "150 decisions are too few" in found.notes[-1]


def test_evaluation_names_what_scores_an_export(made):
    for more in ((), ("--data", "anywhere")):
        answer = command("evaluate.py", made / "onnx-int8", *more, cwd=made)
        (line,) = answer.lines_of_error()
        assert answer.status == 1 and "was exported to a runtime: python launch/benchmark.py" in line


@pytest.mark.parametrize("name", ["model.safetensors", QUANTIZATION_FILE])
def test_an_export_of_an_earlier_model_is_stale(made, name, monkeypatch):
    """Weights, and in int8 scales; the words renew it, and nobody is served from it."""
    flip(made / "model" / name)
    assert kinds(made / "onnx-int8") == [("stale-export", "model.onnx")]
    assert kinds(made / "onnx-fp32") == ([("stale-export", "model.onnx")] if name == "model.safetensors" else [])
    words = f"launch/export.py {made / 'model'} --format onnx --precision int8 --output {made / 'onnx-int8'}"
    with pytest.raises(ExportError, match=f"onnx-int8 is stale: .*{words}"):
        load(made / "onnx-int8")
    monkeypatch.chdir(made / "onnx-int8")
    assert kinds(Path()) == [("stale-export", "model.onnx")]
    with pytest.raises(ExportError, match=f"is stale: .*{words}"):
        load(".")
    (made / "elsewhere").mkdir()
    shutil.move(made / "onnx-int8", made / "elsewhere" / "onnx")
    assert kinds(made / "elsewhere" / "onnx") == []


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_a_flipped_bit_is_found_by_its_sum(made, name):
    flip(made / "onnx-fp32" / name, 0)
    assert ("changed-file", name) in kinds(made / "onnx-fp32")


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_named(made, name):
    folder, file = made / f"{name}-fp32", FORMATS[name].file
    (folder / file).unlink()
    assert kinds(folder) == [("changed-file", file), ("damaged-weights", file)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "another"}'])
def test_a_damaged_list_is_named(made, text):
    (made / "onnx-fp32" / EXPORT_FILE).write_text(text)
    assert kinds(made / "onnx-fp32") == [("damaged-export", EXPORT_FILE)]


def test_the_command_prints_the_table_and_refuses_what_it_cannot_tell(made):
    answer = command("verify.py", str(made / "onnx-int8"), cwd=made)
    assert answer.status == 0 and f"ok: {made / 'onnx-int8'} is what it says it is" in answer.out
    flip(made / "onnx-int8" / "model.onnx")
    answer = command("verify.py", str(made / "onnx-int8"), cwd=made)
    assert answer.status == 1 and "changed-file" in answer.out
    answer = command("verify.py", str(made / "onnx-int8"), "--same-zeros-as", "model", cwd=made)
    assert answer.status == 1 and "give --same-zeros-as with that one" in answer.err


def test_a_missing_extra_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        verify_export(made / "onnx-fp32")


# ---- scales of a model folder ------------------------------------------------------------------------------------


def damaged(change):
    """Change the tensors of a quantization file, whose metadata stays."""

    def damage(path):
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors, next(name for name in tensors if name.endswith(".weight_scale")))
        safetensors.torch.save_file(tensors, path, metadata)

    return damage


DAMAGES = {
    "scale-without-weight": damaged(lambda tensors, name: tensors.update({"no.weight_scale": tensors[name].clone()})),
    "bad-scale": damaged(lambda tensors, name: tensors[name].fill_(0.0)),
    "clipped-weight": damaged(lambda tensors, name: tensors[name].mul_(0.9)),
    "scale-shape": damaged(lambda tensors, name: tensors.update({name: tensors[name].repeat(2)})),
    "damaged-scales": lambda path: path.write_bytes(path.read_bytes()[:-3]),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_scales_are_held_against_the_weights(made, kind):
    assert not verify_folder(made / "model").problems
    DAMAGES[kind](made / "model" / QUANTIZATION_FILE)
    assert [problem.kind for problem in verify_folder(made / "model").problems] == [kind]
