"""Training under masks: nothing is read from the device, and one compiled graph serves all masks."""

import pytest
import torch
from torch._dynamo.utils import counters

from ofa.downstream.cofi.gates import FAMILIES, Gates
from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.recorder import LayerRecorder
from ofa.models.blocks import blocks_of, sizes_of
from ofa.models.compile import compile_layers
from ofa.models.task_training import task_logits
from tests.reads import Reads, seen
from tests.task_parts import ARCHITECTURES
from tests.unit.downstream.cofi.test_masked import BATCH, KIND, model_of

COMPILED = [
    ("bert", ("head", "ffn")),
    ("bert", FAMILIES),
    ("modernbert", FAMILIES),
    *(
        pytest.param(name, FAMILIES, marks=pytest.mark.slow)
        for name in ARCHITECTURES
        if name not in ("bert", "modernbert")
    ),
]
"""A norm behind and a norm before the sublayer; the other architectures have the same modules and take as long."""


def step(model, masked, gates, forward, recorder=None):
    """One step of training the gates; its loss takes in recorded states."""
    masked.set(gates.sample())
    loss = forward(model, KIND, BATCH).square().sum()
    if recorder is not None:
        loss = loss + sum(state.square().mean() for state in recorder.take())
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_step_reads_nothing_from_the_device(model_type):
    """COFI-23: drawing masks, placing them, forward and backward, with hidden gates."""
    model = model_of(model_type)
    gates = Gates(sizes_of(model), FAMILIES, mean=0.0)
    with MaskedForward(model) as masked:
        reads = seen(Reads(), lambda: step(model, masked, gates, task_logits, LayerRecorder(model)))
    ours = {place: number for place, number in reads.by_place.items() if place != "elsewhere"}
    assert not ours and gates.log_alpha.grad.any()
    assert seen(Reads(), lambda: bool(gates.log_alpha.detach().sum() > 0)).by_place, "a read would be seen"


@pytest.mark.parametrize("model_type, families", COMPILED, ids=str)
def test_one_graph_serves_all_masks_and_computes_what_eager_does(model_type, families, fresh_compiler):
    """COFI-23: 50 steps, among whose masks are dead layers; one compilation, no break, losses and gradients of eager
    training."""

    def train(forward):
        model = model_of(model_type, layers=2)
        torch.manual_seed(0)
        gates = Gates(sizes_of(model), families, mean=0.0)
        with MaskedForward(model) as masked:
            losses, dead, recorder = [], 0, LayerRecorder(model)
            for _ in range(50):
                losses.append(step(model, masked, gates, forward, recorder))
                dead += int((~masked.masks.alive_layers()).sum())
        return torch.stack(losses), gates.log_alpha.grad, dead

    losses, gradient, dead = train(torch.compile(task_logits, fullgraph=True, dynamic=False, backend="aot_eager"))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    expected, reference, _ = train(task_logits)
    assert dead > 0 or families != FAMILIES
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-3 * float(reference.abs().max()))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_all_layers_share_one_compilation(model_type, fresh_compiler):
    """With `engine.compile`'s way of compiling layer by layer, their outputs recorded."""
    model = model_of(model_type)
    gates = Gates(sizes_of(model), FAMILIES, mean=0.0)
    with MaskedForward(model) as masked:
        compile_layers([model], device="cpu", backend="aot_eager")
        counters.clear()
        found, recorder = [], LayerRecorder(model)
        for _ in range(3):
            step(model, masked, gates, task_logits, recorder)
            found.append(counters["stats"]["unique_graphs"])
    kinds = {type(block.attention_norm) for block in blocks_of(model)}
    assert found == [len(kinds)] * 3 and not counters["graph_break"]
