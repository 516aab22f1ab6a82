"""Hidden states behind each layer, against those that the stock model gives out itself."""

import pytest
import torch

from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.models.blocks import stream_of
from tests.task_parts import ARCHITECTURES, batch_of, random_rows, small_model

BATCH, _ = batch_of(random_rows("classification"), "classification")
INPUTS = {"input_ids": BATCH.input_ids, "attention_mask": BATCH.attention_mask}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_recorded_states_are_those_that_the_stock_model_gives_out(model_type):
    """To the bit, and in the graph of the forward; but for the last of a pre-norm encoder, where the stock model gives
    out what is behind its final norm."""
    model = small_model(model_type)
    expected = list(model(**INPUTS, output_hidden_states=True).hidden_states[1:])
    recorder = LayerRecorder(model)
    logits = model(**INPUTS).logits
    found = recorder.take()
    norm = stream_of(model).final_norm
    with_norm = found if norm is None else [*found[:-1], norm(found[-1])]
    assert len(found) == len(expected) == 2
    assert all(torch.equal(one, other) for one, other in zip(with_norm, expected, strict=True))
    assert all(gradient.any() for gradient in torch.autograd.grad(logits.sum(), found))


def test_states_are_handed_out_once_and_not_recorded_after_the_end():
    model = small_model()
    recorder = LayerRecorder(model)
    with pytest.raises(RuntimeError, match="0 of 2 layers were recorded"):
        recorder.take()
    model(**INPUTS)
    recorder.take()
    with pytest.raises(RuntimeError, match="0 of 2 layers were recorded"):
        recorder.take()
    recorder.remove()
    model(**INPUTS)
    with pytest.raises(RuntimeError, match="0 of 2 layers were recorded"):
        recorder.take()
    assert not any(module._forward_hooks for module in model.modules())
