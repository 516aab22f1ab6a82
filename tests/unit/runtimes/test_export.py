"""A task model's folder as a runtime's: its answers, its zeros, and what is refused."""

import json
import shutil
import socket
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
import safetensors
import safetensors.torch
import torch

from ofa.export.hf import ExportError
from ofa.export.quantization_file import QUANTIZATION_FILE, QuantizationFileError, read_scales
from ofa.export.recipe_file import fingerprint_of_file
from ofa.models.adapters import scope
from ofa.runtimes.compare import answers, difference, recount, session_logits, torch_logits
from ofa.runtimes.export import Wanted, default_output, export_lines, export_to_runtime
from ofa.runtimes.export_file import EXPORT_FILE, read_export
from ofa.runtimes.extras import MissingExtraError
from ofa.runtimes.formats import FORMATS, RuntimeFileError
from ofa.runtimes.reference import reference
from ofa.runtimes.sample import Rows, drawn, sample_for
from ofa.runtimes.source import open_source
from tests.commands import edit, flip, tree
from tests.runtime_cases import calibrate, integer_products, optimised, sparse
from tests.task_parts import ARCHITECTURES, KINDS, PAD, save_model, small_model, tokenizer

ONNX, ROWS = FORMATS["onnx"], Rows(24)


@pytest.fixture
def folder(tmp_path):
    """A sparse classifier with scales."""
    model = sparse("bert")
    calibrate(save_model(tmp_path / "model", model), model)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Such a classifier in `model`, exported to `onnx` and `openvino`."""
    place, model = tmp_path_factory.mktemp("whole"), sparse("bert")
    calibrate(save_model(place / "model", model), model)
    for form in FORMATS.values():
        export_to_runtime(place / "model", place / form.name, Wanted(form, rows=ROWS))
    return place


@pytest.fixture
def made(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "made")


def exported(folder, form=ONNX, *, rows=ROWS, **wanted):
    """The folder and what export.json says."""
    output = folder.parent / "out"
    said = export_to_runtime(folder, output, Wanted(form, rows=rows, **wanted))
    assert json.loads((output / EXPORT_FILE).read_text()) == {"format": "sparse-ofa export", "version": 1} | said
    return output, said


def assert_answers_are_those_of_torch(folder, session):
    """To rounding in nine of ten logits, for in int8 a last bit may turn a rounding over; all within what is stated."""
    source = open_source(folder, None)
    sample = sample_for(source, ROWS)
    expected = reference(source, sample)
    logits = expected.answers.logits
    found = answers(session_logits(session, source.kind, source.inputs), sample)
    assert found.logits.shape == logits.shape
    apart = np.abs(found.logits - logits)
    assert np.quantile(apart, 0.9) <= 1e-4 < logits.std()
    assert difference(found, expected.answers).within(expected.tolerance)


WAYS = [
    *(("bert", precision, name) for precision in ("fp32", "int8") for name in FORMATS),
    ("compact", "int8", "onnx"),
]
MORE = [
    pytest.param(case, precision, name, marks=pytest.mark.slow)
    for case in (*ARCHITECTURES, "compact")
    for precision in ("fp32", "int8")
    for name in FORMATS
    if (case, precision, name) not in WAYS
]


@pytest.mark.parametrize(("case", "precision", "name"), [*WAYS, *MORE])
def test_the_runtime_answers_as_torch_and_has_the_zeros(tmp_path, case, precision, name):
    """OFA-35, OFA-37: any batch and length; zeros are counted by content, in the file."""
    model = sparse(case)
    folder = save_model(tmp_path / "model", model)
    if precision == "int8":
        calibrate(folder, model)
    output, said = exported(folder, FORMATS[name])
    assert_answers_are_those_of_torch(folder, FORMATS[name].session(output / said["file"]))
    assert (said["precision"], said["runtime"]) == (precision, name)
    zeros = {name: int((weight == 0).sum()) for name, weight in scope(model).items()}
    tensors = said["zeros"]["tensors"]
    assert tensors.keys() == zeros.keys() and said["zeros"]["model"] == sum(zeros.values())
    assert all(tensors[name]["zeros"] >= number > 0 for name, number in zeros.items())
    if precision == "fp32":
        assert said["zeros"]["file"] == said["zeros"]["model"]
    assert sorted(read_export(output)["files"]) == sorted(set(tree(output)) - {EXPORT_FILE})
    assert not (output / "model.safetensors").exists() and (output / "tokenizer.json").is_file()
    first, *_, last = export_lines(output, said)
    assert f"{said['zeros']['weights']:,} scoped weights" in last and "MB packed by zstd -3" in first
    assert 0 < said["bytes"]["zstd"] < said["bytes"]["file"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classification"])
def test_every_kind_of_task_goes_through(tmp_path, kind):
    model = sparse("bert", kind)
    folder = save_model(tmp_path / "model", model)
    calibrate(folder, model, kind, preset="published")
    output, said = exported(folder)
    assert said["kind"] == kind and (said["compared"]["equal_decisions"] is None) == (kind == "regression")
    assert said["outputs"] == (["start_logits", "end_logits"] if kind == "questions" else ["logits"])
    assert_answers_are_those_of_torch(folder, ONNX.session(output / said["file"]))


@pytest.mark.parametrize("name", FORMATS)
def test_equal_models_give_equal_bytes_without_paths(made, name):
    """OpenVINO numbers the nodes of its .xml by a counter of the process: of these the weights alone are compared."""
    counted = {"openvino_model.xml", EXPORT_FILE} if name == "openvino" else ()
    before = tree(made / name, without=counted)
    export_to_runtime(made / "model", made / name, Wanted(FORMATS[name], rows=ROWS))
    assert tree(made / name, without=counted) == before
    data = (made / name / FORMATS[name].file).read_bytes()
    assert b"site-packages" not in data and b".py" not in data and str(made).encode() not in data


def test_onnx_runtime_has_integer_kernels_for_every_linear(whole, tmp_path):
    """Pooler and classifier too; what is left in floats are the products of attention."""
    nodes = optimised(whole / "onnx" / "model.onnx", tmp_path)
    linears = read_scales(whole / "model" / QUANTIZATION_FILE).modules
    weights = [name for inputs in integer_products(nodes) for name in inputs if "weight_int8" in name]
    assert sorted(weights) == sorted(f"{name}.weight_int8" for name in linears)
    assert not {"Gemm", "FusedGemm", "DequantizeLinear"} & {node.op_type for node in nodes}


def test_openvino_computes_every_linear_in_integers(whole):
    """As it says of the compiled model; the products of attention stay in floats."""
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(whole / "openvino" / "openvino_model.xml", "CPU", options)
    precisions = Counter(
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in compiled.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    )
    linears = read_scales(whole / "model" / QUANTIZATION_FILE).modules
    assert sum(precisions.values()) == len(linears) and set(precisions) <= {"u8", "i8"}, precisions


def test_float_weights_are_exported_by_request(folder):
    _, said = exported(folder, precision="fp32")
    assert said["precision"] == "fp32" and said["zeros"]["file"] == said["zeros"]["model"]


def test_a_weight_that_is_changed_in_the_file_is_found(made):
    """By content, not by name: one number is enough."""
    path, weights = made / "onnx" / "model.onnx", open_source(made / "model", None).stored()
    zeros = sum(one.zeros for one in recount(weights, ONNX.constants(path)).values())
    assert zeros == read_export(made / "onnx")["zeros"]["file"]
    graph, name = onnx.load(path), next(iter(weights))
    (tensor,) = [one for one in graph.graph.initializer if one.name == f"{name}_int8"]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[np.unravel_index(np.argmin(np.abs(array)), array.shape)] = 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(graph, path)
    with pytest.raises(ExportError, match=f"{name} is not in the exported file"):
        recount(weights, ONNX.constants(path))


def test_the_export_says_whether_decisions_were_held_and_what_8_bits_change(made):
    """24 rows show nothing; the same weights in fp32, and under other last bits, are compared as well."""
    found = read_export(made / "onnx")
    assert found["compared"]["decisions_held"] is False and found["compared"]["in_floats"]["mean"] > 1e-3
    lines = export_lines(made / "onnx", found)
    assert lines[2].startswith("99.5% equal decisions are not shown: 24 decisions are too few")
    assert lines[3].startswith("torch in int8 and in fp32: logits differ by up to") and "of 24 decisions" in lines[3]
    assert lines[4].startswith("torch in int8, last bits moved: logits differ by up to")
    assert 0 <= found["compared"]["rounding_noise"]["mean"] < found["compared"]["in_floats"]["mean"]
    found = export_to_runtime(made / "model", made / "floats", Wanted(ONNX, "fp32", ROWS))
    assert found["compared"]["decisions_held"] is None and found["compared"]["in_floats"] is None
    assert len(export_lines(made / "floats", found)) == 3


def test_jitter_moves_answers_in_its_block_alone_and_always_alike(made):
    source = open_source(made / "model", None)
    sample, logits = sample_for(source, ROWS), torch_logits(source.model, source.kind)
    still = answers(logits, sample).logits
    moved = []
    for _ in range(2):
        with source.with_jitter(0.1):
            moved.append(answers(logits, sample).logits)
    assert np.array_equal(*moved) and not np.array_equal(moved[0], still)
    assert np.array_equal(answers(logits, sample).logits, still)


def tanh_in_place_of_erf(model):
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.GELU("tanh")


def a_layer_that_is_not_quantised(model):
    for module in model.bert.encoder.layer[0].modules():
        vars(module).pop("forward", None)


def a_scale_that_is_a_hundredth_off(model):
    model.bert.encoder.layer[1].output.LayerNorm.weight.data *= 1.01


@pytest.mark.parametrize(
    "wrong", [tanh_in_place_of_erf, a_layer_that_is_not_quantised, a_scale_that_is_a_hundredth_off]
)
def test_a_model_that_computes_something_else_is_beyond_what_last_bits_do(made, wrong):
    """What no comparison of constants would find."""
    source = open_source(made / "model", None)
    sample = sample_for(source, ROWS)
    expected = reference(source, sample)
    logits = torch_logits(source.model, source.kind)
    assert difference(answers(logits, sample), expected.answers).within(expected.tolerance)
    wrong(source.model)
    assert not difference(answers(logits, sample), expected.answers).within(expected.tolerance)


def test_a_runtime_that_answers_otherwise_leaves_nothing(made):
    """What stood there still stands."""
    before = tree(made)

    def session(path):
        right = ONNX.session(path)
        return lambda inputs: {name: value + 1 for name, value in right(inputs).items()}

    words = "ONNX Runtime answers otherwise than the torch model in int8: logits on 24 rows of words"
    with pytest.raises(ExportError, match=words):
        export_to_runtime(made / "model", made / "onnx", Wanted(replace(ONNX, session=session), rows=ROWS))
    assert tree(made) == before


def test_a_model_in_the_middle_of_its_pruning_is_refused(folder, tmp_path):
    recipe = {
        "format": "sparse-ofa-recipe",
        "version": 1,
        "steps": 320,
        "scope": {"tensors": {}},
        "files": {},
        "sparsity": {"scope_sparsity": 0.42},
        "config": {
            "schedule": {"total_steps": 1000},
            "pruning": {"sparsity": 0.9, "ramp_start": 0, "ramp_end": 500, "frequency": 10, "end": 600},
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ExportError, match=r"in the middle of its run \(step 320 of 1,000; pruning has not ended: 42 %"):
        exported(folder)
    edit(folder / "recipe.json", lambda values: values.update(steps=700))
    exported(folder)


@pytest.mark.parametrize("package", ONNX.packages)
def test_a_missing_extra_is_named(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"exports need {package}, .*pip install 'sparse-ofa\[export\]'"):
        exported(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_int8_needs_scales(folder):
    (folder / QUANTIZATION_FILE).unlink()
    with pytest.raises(QuantizationFileError, match="is no model that was trained in 8 bits"):
        exported(folder, precision="int8")
    _, said = exported(folder)
    assert said["precision"] == "fp32"


def scaled(folder, ending, factor):
    """Multiply scales of a model."""
    with safetensors.safe_open(str(folder / QUANTIZATION_FILE), framework="pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    changed = {name: factor * one if name.endswith(ending) else one for name, one in tensors.items()}
    safetensors.torch.save_file(changed, folder / QUANTIZATION_FILE, about)


def with_recipe(folder, **more):
    """Put a recipe beside a model."""
    sums = {name: fingerprint_of_file(folder / name) for name in ("model.safetensors", QUANTIZATION_FILE)}
    recipe = {"format": "sparse-ofa-recipe", "version": 1, "steps": 9, "scope": {"tensors": {}}, "files": sums}
    (folder / "recipe.json").write_text(json.dumps(recipe | more))


def test_scales_of_other_weights_are_refused(folder):
    """The runtime and torch would agree on what they make of them."""
    scaled(folder, ".weight_scale", 0.05)
    with pytest.raises(QuantizationFileError, match=r"its largest weight is .* scales, and int8 ends at 128"):
        exported(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model.safetensors", QUANTIZATION_FILE])
def test_files_that_the_recipe_does_not_know_are_refused(folder, name):
    """A scale of an input fits any weight: its sum alone tells."""
    with_recipe(folder)
    exported(folder, precision="fp32")
    scaled(folder, ".input_scale", 0.05) if name == QUANTIZATION_FILE else flip(folder / name)
    with pytest.raises(ExportError, match=f"{name} is not the file that its recipe.json lists .*launch/verify.py"):
        exported(folder)


def test_a_model_that_lost_its_scales_is_not_taken_for_one_of_fp32(folder):
    with_recipe(folder, quantization={"bits": 8})
    (folder / QUANTIZATION_FILE).unlink()
    for precision in (None, "int8"):
        with pytest.raises(QuantizationFileError, match="copy the file from .* or export .* with --precision fp32"):
            exported(folder, precision=precision)
    assert exported(folder, precision="fp32")[1]["precision"] == "fp32"


def test_other_folders_are_refused(made, tmp_path):
    with pytest.raises(ExportError, match="onnx was exported to a runtime already"):
        export_to_runtime(made / "onnx", tmp_path / "again", Wanted(ONNX))
    with pytest.raises(ExportError, match="model exists and is no exported model \\(it has no export.json\\)"):
        export_to_runtime(made / "model", made / "model", Wanted(ONNX))
    bare = save_model(tmp_path / "bare", small_model("bert", "mlm"))
    with pytest.raises(ExportError, match="bare is BertForMaskedLM; expected a task model"):
        export_to_runtime(bare, tmp_path / "new", Wanted(ONNX))
    with pytest.raises(ExportError, match="stands in no run folder: say with --output"):
        default_output(made / "model", "onnx")
    assert not (tmp_path / "new").exists() and not (tmp_path / "again").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named(made, name, damage):
    path = made / name / FORMATS[name].file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"cut": data[:-500], "empty": b"", "text": b"no model"}[damage])
    with pytest.raises(RuntimeFileError, match=f"{path.name} cannot be read by {FORMATS[name].runtime}"):
        FORMATS[name].session(path)
    with pytest.raises(ExportError, match=f"{path.name} is (missing|not the file that was exported)"):
        read_export(made / name)


def test_a_flipped_bit_is_found_by_its_sum(made):
    read_export(made / "onnx")
    flip(made / "onnx" / "model.onnx")
    with pytest.raises(ExportError, match="model.onnx is not the file that was exported"):
        read_export(made / "onnx")


def test_rows_of_the_task_are_taken_where_they_can_be_read(folder, tmp_path, caplog):
    (tmp_path / "task").mkdir()
    lines = ["first,second,label", *[f"good 1,red {number},{'abc'[number % 3]}" for number in range(9)]]
    for split in ("train", "validation"):
        (tmp_path / "task" / f"{split}.csv").write_text("\n".join(lines).replace("first,second", "text,pair"))
    output, said = exported(folder)
    assert said["compared"]["of"] == "words drawn from its vocabulary" and "cannot be read" in caplog.text
    columns = ('task.text_column="text"', 'task.pair_column="pair"', 'task.label_column="label"')
    _, said = exported(folder, rows=Rows(24, "text_classification", str(tmp_path / "task"), columns))
    assert (said["compared"]["rows"], said["compared"]["of"]) == (9, "the validation split of text_classification")
    assert "of text_classification, all that there are (24 were asked for)" in export_lines(output, said)[1]
    with pytest.raises(ValueError, match="nowhere"):
        exported(folder, rows=Rows(24, "text_classification", str(tmp_path / "nowhere"), columns))
    (tmp_path / "task" / "validation.csv").write_text("\n".join(["text,pair,label", *(150 * lines[1:])]))
    for number, count in ((None, 1000), (1200, 1200)):
        rows = Rows(number, "text_classification", str(tmp_path / "task"), columns)
        assert sample_for(open_source(folder, None), rows).count == count
    assert sample_for(open_source(folder, None), Rows()).in_words() == "200 rows of words drawn from its vocabulary"


def test_drawn_rows_reach_what_a_model_has():
    """Every position, and the second segment where there is one."""
    for case, reach, segments in (("bert", 300, {0, 1}), ("roberta", 300 - PAD - 1, {0})):
        config = small_model(case, max_position_embeddings=300).config
        rows = drawn(config, "classification", tokenizer(), 40).rows
        assert list(rows.lengths[:4]) == [reach] * 4 and rows.lengths[4:].max() <= 128 < reach
        with_second = [bool(one.any()) for one in np.split(rows.token_types, np.cumsum(rows.lengths)[:-1])]
        assert set(rows.token_types) == segments and sum(with_second) == (20 if 1 in segments else 0)


def test_the_hub_is_not_asked_for_rows_unless_the_caller_names_the_task(folder, caplog, monkeypatch):
    recipe = {"format": "sparse-ofa-recipe", "version": 1, "steps": 9, "scope": {"tensors": {}}, "files": {}}
    config = {"task": {"name": "rte", "path": None}}
    (folder / "recipe.json").write_text(json.dumps({**recipe, "sparsity": {}, "config": config}))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    sample = sample_for(open_source(folder, None), ROWS)
    assert sample.in_words() == "24 rows of words drawn from its vocabulary"
    assert "the rows of rte are on the hub, which is asked only with --task rte" in caplog.text


def test_a_run_gets_it_beside_its_model(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    (run / "config.json").write_text(json.dumps({"config": {}}))
    assert default_output(run, "onnx") == default_output(run / "model", "onnx") == run / "onnx"
