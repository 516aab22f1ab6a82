"""Smaller models that compute what masked ones do."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

from ofa.models.adapters import ADAPTERS, AdapterError, encoder_names, scope
from ofa.models.blocks import blocks_of, sizes_of
from ofa.models.materialise import MaterialiseError, materialise, prunable_parameters, slice_masks
from ofa.models.structure import Sizes, StructureMasks
from tests.masked_oracle import masked, random_masks
from tests.task_parts import KINDS, halved, small_model

EVERY_TYPE = [row.model_type for row in ADAPTERS]


def awake(model):
    """Biases and norms away from 0 and 1, where a wrong factor would not show."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def ids_of(model, seed=3):
    tokens = torch.randint(5, 15, (3, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    return {"input_ids": tokens.masked_fill(mask == 0, 0), "attention_mask": mask}


@torch.no_grad()
def outputs(model, **inputs):
    out = model(**(inputs or ids_of(model)))
    return torch.stack([out.start_logits, out.end_logits]) if "start_logits" in out else out.logits


def expected(model, masks, dead_sublayer="skip"):
    with masked(copy.deepcopy(model).double(), masks, dead_sublayer) as oracle:
        found = outputs(oracle)
    assert found.std() > 1e-3
    return found


def close(found, wanted):
    return (found.double() - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("hidden", [False, True], ids=["", "hidden"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_materialised_model_computes_what_the_masked_one_does(model_type, soft, hidden):
    """COFI-25, 27: against float64, for each kind of head, dead sublayers among them."""
    for seed, kind in enumerate(KINDS):
        model = awake(small_model(model_type, kind))
        masks = random_masks(sizes_of(model), seed=seed, hidden=hidden, soft=soft)
        for dead_sublayer in ("skip", "keep_norm"):
            found = outputs(materialise(model, masks, dead_sublayer))
            assert close(found, expected(model, masks, dead_sublayer)), (kind, dead_sublayer)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), layers=st.sampled_from([1, 3, 6]), soft=st.booleans(), hidden=st.booleans())
def test_any_masks_of_any_number_of_layers_are_materialised(seed, layers, soft, hidden):
    """COFI-25, 31."""
    model = awake(small_model("bert", num_hidden_layers=layers, seed=seed))
    masks = random_masks(sizes_of(model), seed=seed, hidden=hidden, soft=soft)
    compact = materialise(model, masks)
    assert close(outputs(compact), expected(model, masks))
    assert prunable_parameters(compact) == counted(masks.canonical(), sizes_of(model), matrices=2)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [22, 24])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "modernbert"])
def test_deep_models_are_materialised_too(model_type, layers):
    """COFI-31: RoBERTa, ModernBERT and ELECTRA of 22 and 24 layers."""
    model = awake(small_model(model_type, num_hidden_layers=layers))
    masks = random_masks(sizes_of(model), seed=1, hidden=True, soft=True)
    assert close(outputs(materialise(model, masks)), expected(model, masks))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_sublayer_without_living_units_is_a_dead_one(model_type):
    """COFI-26: masked and materialised agree, and it is the model whose sublayer masks are 0."""
    model = awake(small_model(model_type))
    masks = StructureMasks.ones(sizes_of(model))
    masks.head[0] = 0
    masks.intermediate[1] = 0
    compact = materialise(model, masks)
    assert close(outputs(compact), expected(model, masks))
    gates = replace(StructureMasks.ones(sizes_of(model)), attention=torch.tensor([0.0, 1]), ffn=torch.tensor([1.0, 0]))
    assert torch.equal(outputs(compact), outputs(materialise(model, gates)))
    block = blocks_of(model)[0]
    assert not any(f"{block.name}.{block.paths.attention_out}" in name for name in compact.state_dict())


def counted(masks, sizes, matrices):
    """Weights that a structure leaves, from its masks alone."""
    width = sizes.hidden if masks.hidden is None else int((masks.hidden > 0).sum())
    heads, dims = int((masks.head > 0).sum()), int((masks.intermediate > 0).sum())
    return width * (4 * sizes.head_size * heads + matrices * dims)


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_materialised_weights_are_as_many_as_the_masks_say(model_type):
    """COFI-9; and nothing is left of a dead sublayer but, where it is kept, its norm."""
    model = small_model(model_type)
    matrices = 3 if model_type == "modernbert" else 2
    assert prunable_parameters(model) == counted(StructureMasks.ones(sizes_of(model)), sizes_of(model), matrices)
    for seed in range(6):
        masks = random_masks(sizes_of(model), seed=seed, hidden=bool(seed % 2))
        compact = materialise(model, masks)
        assert prunable_parameters(compact) == counted(masks.canonical(), sizes_of(model), matrices)
        assert set(compact.state_dict()) <= set(model.state_dict())


def test_bert_base_has_the_published_number_of_weights():
    """COFI-10."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert"))
    assert sizes_of(model) == Sizes(layers=12, heads=12, head_size=64, intermediate=3072, hidden=768)
    assert prunable_parameters(model) == 84_934_656
    biases = [model.get_parameter(name.replace("weight", "bias")) for name in encoder_names(model)]
    assert prunable_parameters(model) + sum(bias.numel() for bias in biases) == 85_017_600
    assert sum(p.numel() for p in model.bert.encoder.parameters()) == 85_054_464


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_weight_masks_are_sliced_as_the_weights_are(model_type):
    """A weight that lives in the smaller mask is the weight that lived in the larger one."""
    model = small_model(model_type)
    keep = halved(model)
    masks = random_masks(sizes_of(model), seed=2, hidden=True)
    compact = materialise(model, masks)
    sliced = slice_masks(keep, model, masks)
    assert set(sliced) == set(scope(compact)) and set(encoder_names(compact)) <= set(sliced)
    for name, weight in scope(compact).items():
        assert torch.equal(weight != 0, sliced[name]) and sliced[name].dtype == torch.bool


def test_masks_of_another_model_and_unknown_heads_are_refused():
    model = small_model("bert")
    with pytest.raises(MaterialiseError, match=r"the head mask is \[3, 2\], expected \[2, 2\]"):
        materialise(model, StructureMasks.ones(replace(sizes_of(model), layers=3)))
    masks = StructureMasks.ones(sizes_of(model), hidden=True)
    with pytest.raises(AdapterError, match="BertForMaskedLM is not known"):
        materialise(small_model("bert", "mlm"), masks)
    masks.hidden.zero_()
    with pytest.raises(MaterialiseError, match="no hidden dimension lives"):
        materialise(model, masks)


def test_the_model_and_the_random_state_are_left_alone():
    model = awake(small_model("bert")).train()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    compact = materialise(model, random_masks(sizes_of(model), seed=0, soft=True, hidden=True))
    assert compact.training and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
