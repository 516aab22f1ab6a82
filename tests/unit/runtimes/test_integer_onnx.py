"""int8 ONNX in QDQ form: what the runtime computes is what training in 8 bits has computed."""

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch

from ofa.runtimes.integer_graph import INTEGERS, to_integers
from ofa.runtimes.to_onnx import onnx_program
from tests.runtime_cases import calibrated, integer_products, optimised
from tests.structures import uneven_model
from tests.task_parts import ARCHITECTURES, batch_of, random_rows, small_model

KIND = "classification"
BATCH, _ = batch_of(random_rows(KIND), KIND)
EVERYTHING = {"embeddings": True, "outputs": True, "attention_matmuls": True}
WAYS = [{}, {"preset": "published"}, EVERYTHING]
CASES = [*ARCHITECTURES, "compact"]


def model_of(case):
    """A small model by architecture; `compact`: `uneven`."""
    return uneven_model() if case == "compact" else small_model(case)


def tokens(batch, length):
    """Inputs of which the last row's end is padding."""
    ids = torch.randint(5, 15, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def measured(model, **settings):
    """Its scales, and the logits of two batches in 8 bits; the model is float again."""
    quantisers = calibrated(model, BATCH, **settings)
    with torch.no_grad():
        expected = [(inputs, model(**inputs).logits) for inputs in (tokens(1, 5), tokens(3, 17))]
    scales = quantisers.scales()
    quantisers.remove()
    return scales, expected


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_whole_numbers_give_the_logits_of_training(case, settings):
    """OFA-35: without a runtime; what is quantised is gone from the fp32 weights."""
    model = model_of(case)
    scales, expected = measured(model, **settings)
    names = {name for name, _ in model.named_parameters()}
    integers = to_integers(model, scales)
    assert names - {name for name, _ in integers.named_parameters()} == {f"{name}.weight" for name in scales.modules}
    for inputs, logits in expected:
        with torch.no_grad():
            torch.testing.assert_close(integers(**inputs).logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("case", [pytest.param(one, marks=() if one == "bert" else pytest.mark.slow) for one in CASES])
def test_the_runtime_gives_them_too_for_any_batch_and_length(tmp_path, case, settings):
    """OFA-35, and no weight that is quantised stands in the file as a float."""
    model = model_of(case)
    scales, expected = measured(model, **settings)
    stored = {f"{name}.{INTEGERS}" for name in scales.modules}
    program = onnx_program(to_integers(model, scales), tuple(expected[0][0]))
    path = tmp_path / "model.onnx"
    program.save(path)
    graph = program.model_proto.graph
    of_bytes = {one.name for one in graph.initializer if one.data_type == 3}
    assert of_bytes == stored
    assert not {one.name for one in graph.initializer} & {f"{name}.weight" for name in scales.modules}
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] >= len(set(_inputs(scales)))
    assert_products_are_integers(scales, integer_products(optimised(path, tmp_path)))
    session = onnxruntime.InferenceSession(path)
    for inputs, logits in expected:
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        assert np.abs(found - logits.numpy()).max() <= 1e-4 < float(logits.std())


def assert_products_are_integers(scales, products):
    """Of every Linear, and of every attention that has scales both, or of queries and keys alone where their Linears'
    outputs are quantised; each reads the scales of its two operands, that of probabilities is one number, which the
    runtime has once. There are no others."""
    linears = [name for name, one in scales.modules.items() if one.input]
    pairs = [(f"{name}.{INTEGERS}", f"{name}.weight_scale") for name in linears]
    for name in scales.attentions:
        pairs.append((f"{name}.query_scale", f"{name}.key_scale"))
        pairs.append(("probabilities_scale", f"{name}.value_scale"))
    if not scales.attentions:
        for parent, _, own in (name.rpartition(".") for name, one in scales.modules.items() if one.output):
            if own in KEYS:
                pairs.append((f"{parent}.{own}.output_scale", f"{parent}.{KEYS[own]}.output_scale"))
    reads = [{"probabilities_scale" if "probabilities_scale" in one else one for one in own} for own in products]
    found = [[pair for pair in pairs if set(pair) <= inputs] for inputs in reads]
    assert sorted(pair for own in found for pair in own) == sorted(pairs)
    assert len(products) == len(pairs)


KEYS = {"query": "key", "q_lin": "k_lin"}
"""Names of the Linears of queries and of their keys."""


def _inputs(scales):
    return [(float(one.input.scale), float(one.input.zero_point)) for one in scales.modules.values() if one.input]
