"""What runtimes say of files, in our words: ops that they lack."""

from dataclasses import replace

import onnx
import pytest
import torch

from ofa.runtimes.extras import version
from ofa.runtimes.formats import FORMATS, UnknownOpError

READERS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def written(path, op, domain):
    """An ONNX file of one op."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    node = onnx.helper.make_node(op, ["x"], ["y"], domain=domain)
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.example", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), path)
    return path


@pytest.mark.parametrize("domain", ["com.example", ""])
@pytest.mark.parametrize("name", FORMATS)
def test_an_op_that_a_runtime_lacks_is_named(tmp_path, name, domain):
    """OpenVINO reads ONNX as well, which is how it gets its own format."""
    path = written(tmp_path / "model.onnx", "Sharpen", domain)
    words = rf"model.onnx needs the op {domain}.?Sharpen\S*, which {READERS[name]} \S+ does not have: export the model"
    with pytest.raises(UnknownOpError, match=words) as caught:
        FORMATS[name].session(path)
    assert "\n" not in str(caught.value)


def test_an_op_that_openvino_lacks_is_named_in_its_own_format(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(written(tmp_path / "model.onnx", "Relu", ""))
    openvino.save_model(model, tmp_path / "model.xml")
    text = (tmp_path / "model.xml").read_text()
    (tmp_path / "model.xml").write_text(text.replace('type="ReLU"', 'type="Sharpen"'))
    with pytest.raises(UnknownOpError, match="model.xml needs the op Sharpen, which OpenVINO"):
        FORMATS["openvino"].session(tmp_path / "model.xml")


def test_versions_are_those_of_modules_whatever_their_distribution_is_called(tmp_path, monkeypatch):
    """As onnxruntime is that of onnxruntime-gpu: no distribution has the module's name."""
    (tmp_path / "of_another_name.py").write_text('__version__ = "1.2.3-4567-branch"\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert version("of_another_name") == "1.2.3"
    found = replace(FORMATS["onnx"], packages=("onnx", "of_another_name")).versions()
    assert found.keys() == {"torch", "onnx", "of_another_name"} and found["of_another_name"] == "1.2.3"
    assert found["onnx"] == onnx.__version__ and found["torch"] == torch.__version__
