"""Compact models in ONNX, run by onnxruntime."""

import onnxruntime
import pytest
import torch

from ofa.models.adapters import ADAPTERS
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from tests.masked_oracle import random_masks
from tests.task_parts import small_model

SLOW = [("bert", 12), ("roberta", 4), ("distilbert", 6), ("electra", 12), ("modernbert", 4)]
CASES = [("bert", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def inputs_of(batch, length):
    """Tokens of which the last row's end is padding."""
    tokens = torch.randint(5, 15, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(tokens)
    mask[-1, length // 2 :] = 0
    return {"input_ids": tokens.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_every_architecture_is_among_the_cases():
    assert {model_type for model_type, _ in SLOW} == {row.model_type for row in ADAPTERS}


@pytest.mark.parametrize(("model_type", "layers"), CASES)
def test_onnx_gives_the_same_logits_for_any_batch_and_length(tmp_path, model_type, layers):
    """COFI-30, 31: to 1e-4, heads, dimensions, sublayers and hidden dimensions gone; with padding and without."""
    stock = small_model(model_type, num_hidden_layers=layers)
    model = materialise(stock, random_masks(sizes_of(stock), seed=1, hidden=True)).eval()
    assert 0 in model.config.structure["heads"] + model.config.structure["intermediate"]
    example = inputs_of(2, 8)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (), path, kwargs=example, dynamo=True, dynamic_shapes=dict.fromkeys(example, sizes))
    session = onnxruntime.InferenceSession(path)
    for batch, length in ((1, 5), (3, 17)):
        inputs = inputs_of(batch, length)
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected = model(**inputs).logits
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-4 < expected.std()
