"""A model as a program of ONNX: what its graph holds, and that the model stays as it was."""

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ofa.runtimes.to_onnx import NotInOnnxError, onnx_program
from tests.task_parts import save_model, small_model

INPUTS = ("input_ids", "attention_mask")


def padded_rows():
    """A row of 40 tokens and one of 5, whose padding reaches beyond any local window of small models."""
    ids, mask = torch.arange(80).reshape(2, 40) % 9 + 5, torch.ones(2, 40, dtype=torch.int64)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("model_type", ["modernbert", pytest.param("bert", marks=pytest.mark.slow)])
def test_attention_is_written_out_without_a_guard_for_the_export_alone(tmp_path, model_type):
    model = small_model(model_type, num_hidden_layers=4)
    files = (save_model(tmp_path / "before", model) / "config.json").read_text()
    assert model.config._attn_implementation == "sdpa"
    program = onnx_program(model, INPUTS)
    assert model.config._attn_implementation == "sdpa"
    assert (save_model(tmp_path / "after", model) / "config.json").read_text() == files
    assert "IsNaN" not in {node.op_type for node in program.model_proto.graph.node}
    program.save(tmp_path / "model.onnx")
    rows = padded_rows()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["logits"], {name: value.numpy() for name, value in rows.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(**rows).logits, rtol=1e-5, atol=1e-5)


@torch.library.custom_op("someone::sharpen", mutates_args=())
def sharpen(values: Tensor) -> Tensor:
    """An op that torch knows and ONNX does not."""
    return 2 * values


@sharpen.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


class Sharpen(nn.Module):
    """An activation of that op."""

    def forward(self, values: Tensor) -> Tensor:
        return sharpen(values)


def test_an_op_without_a_form_in_onnx_is_named_in_one_line():
    """And the model is what it was."""
    model = small_model("bert", num_hidden_layers=1)
    model.bert.pooler.activation = Sharpen()
    with pytest.raises(NotInOnnxError, match="BertForSequenceClassification computes someone.sharpen") as caught:
        onnx_program(model, INPUTS)
    assert "\n" not in str(caught.value) and "replace the module" in str(caught.value)
    assert model.config._attn_implementation == "sdpa"
