"""quantization.safetensors: what goes in comes out."""

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.export.quantization_file import (
    ABOUT,
    KEY,
    OPERANDS,
    ActivationScale,
    ModuleScales,
    QuantizationFileError,
    Scales,
    encode_scales,
    read_scales,
)

one = st.builds(
    lambda scale, zero_point: ActivationScale(torch.tensor(scale), torch.tensor(float(zero_point))),
    st.floats(2.0**-20, 10, width=32),
    st.integers(0, 255),
)
weights = st.one_of(
    st.floats(2.0**-20, 1, width=32).map(torch.tensor),
    st.lists(st.floats(2.0**-20, 1, width=32), min_size=1, max_size=5).map(torch.tensor),
)
modules = st.one_of(
    st.builds(ModuleScales, weights, one, st.one_of(st.none(), one)),
    st.builds(ModuleScales, weights, st.none(), st.none()),
)


names = st.sampled_from(["a.b", "a.b.c", "query", "a.query", "key", "attention"])
attentions = st.fixed_dictionaries(dict.fromkeys(OPERANDS, one))


def same(ours, theirs):
    """Of two activations' scales."""
    if ours is None or theirs is None:
        return ours is theirs
    return torch.equal(ours.scale, theirs.scale) and torch.equal(ours.zero_point, theirs.zero_point)


@given(st.builds(Scales, st.dictionaries(names, modules), st.dictionaries(names, attentions)))
def test_scales_come_back_as_they_were(tmp_path_factory, scales):
    path = tmp_path_factory.mktemp("scales") / "quantization.safetensors"
    path.write_bytes(encode_scales(scales))
    found = read_scales(path)
    assert found.modules.keys() == scales.modules.keys() and found.attentions.keys() == scales.attentions.keys()
    for name, before in scales.modules.items():
        after = found.modules[name]
        assert torch.equal(after.weight, before.weight)
        assert same(after.input, before.input) and same(after.output, before.output)
    for name, operands in scales.attentions.items():
        assert all(same(found.attentions[name][operand], operands[operand]) for operand in OPERANDS)
    assert encode_scales(found) == path.read_bytes()


def test_the_file_says_its_integers_and_others_are_refused(tmp_path):
    path = tmp_path / "quantization.safetensors"
    path.write_bytes(encode_scales(Scales({})))
    with safetensors.safe_open(str(path), "pt") as file:
        found = json.loads(file.metadata()["quantization"])["integers"]
    assert found == {"weight": ["int8", -128, 127], "activation": ["uint8", 0, 255]}
    path.write_bytes(safetensors.torch.save({"a.weight_scale": torch.ones(2)}))
    with pytest.raises(QuantizationFileError, match="is not a sparse-ofa quantization file of version 1"):
        read_scales(path)
    half = {"a.query_scale": torch.ones(()), "a.query_zero_point": torch.zeros((), dtype=torch.uint8)}
    path.write_bytes(safetensors.torch.save(half, metadata={KEY: json.dumps(ABOUT)}))
    with pytest.raises(QuantizationFileError, match="lacks scales of an attention"):
        read_scales(path)
