"""Compact models in the stock classes: smaller ones, and padded ones of full size."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ofa.models.adapters import ADAPTERS, scope
from ofa.models.blocks import blocks_of, sizes_of
from ofa.models.materialise import MaterialiseError, materialise, slice_masks
from ofa.models.stock_form import padded, smaller
from ofa.models.structure import StructureMasks
from tests.masked_oracle import random_masks
from tests.task_parts import KINDS, halved, small_model
from tests.unit.models.test_materialise import awake, close, expected, outputs

EVERY_TYPE = [row.model_type for row in ADAPTERS]


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_padded_model_is_the_same_function_in_the_stock_class(tmp_path, model_type):
    """COFI-29: loaded by the stock Auto class, of soft masks too, with zeros for what is gone."""
    model = awake(small_model(model_type))
    masks = random_masks(sizes_of(model), seed=4, soft=True)
    stock = padded(materialise(model, masks, "keep_norm")).model
    assert type(stock) is type(model)
    stock.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert sizes_of(loaded) == sizes_of(model)
    assert close(outputs(loaded), expected(model, masks, "keep_norm"))
    lives = int((masks.canonical().intermediate[1] > 0).sum())
    down = blocks_of(loaded)[1].down.weight
    assert 0 < lives < len(masks.intermediate[1]) and down[:, :lives].all() and not down[:, lives:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_goes_over(kind):
    model = awake(small_model("bert", kind))
    masks = random_masks(sizes_of(model), seed=2)
    assert close(outputs(padded(materialise(model, masks, "keep_norm")).model), expected(model, masks, "keep_norm"))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_masks_of_weights_go_where_the_weights_go(model_type):
    """A sparse model that was cut: what its masks keep is what is not zero in the padded model."""
    model = small_model(model_type)
    keep = halved(model)
    masks = random_masks(sizes_of(model), seed=3)
    form = padded(materialise(model, masks, "keep_norm"))
    placed = form.place(slice_masks(keep, model, masks, "keep_norm"))
    weights = scope(form.model)
    assert form.gone & weights.keys() and placed.keys() == weights.keys() - form.gone
    for name, weight in weights.items():
        assert not weight.any() if name in form.gone else torch.equal(weight != 0, placed[name])


def test_what_a_stock_class_cannot_compute_is_refused():
    model = small_model("bert")
    masks = StructureMasks.ones(sizes_of(model), hidden=True)
    padded(materialise(model, masks))
    smaller(materialise(model, masks))
    masks.hidden[3] = 0
    with pytest.raises(MaterialiseError, match="^1 hidden dimension is gone, .*a BertFor.*structure.hidden=false"):
        padded(materialise(model, masks))
    masks = StructureMasks.ones(sizes_of(model))
    masks.ffn[0] = 0
    with pytest.raises(MaterialiseError, match="^1 sublayer is gone and skipped, .*dead_sublayer=keep_norm"):
        padded(materialise(model, masks))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_a_uniform_structure_is_a_smaller_stock_model(tmp_path, model_type):
    layers = "n_layers" if model_type == "distilbert" else "num_hidden_layers"
    model = awake(small_model(model_type, **{layers: 4}))
    masks = StructureMasks.ones(sizes_of(model))
    masks.attention[2] = masks.ffn[2] = 0
    masks.intermediate[:, ::4] = 0
    masks.intermediate[:, 1::2] *= 0.7
    form = smaller(materialise(model, masks))
    assert type(form.model) is type(model)
    assert sizes_of(form.model) == replace(sizes_of(model), layers=3, intermediate=24)
    form.model.save_pretrained(tmp_path)
    assert close(outputs(AutoModelForSequenceClassification.from_pretrained(tmp_path)), expected(model, masks))


def test_a_structure_that_is_not_uniform_is_refused_with_what_is_not():
    model = small_model("bert")

    def refused(words, dead_sublayer="skip", **dead):
        masks = StructureMasks.ones(sizes_of(model), hidden="hidden" in dead)
        for family, place in dead.items():
            getattr(masks, family)[place] = 0
        with pytest.raises(MaterialiseError, match=words):
            smaller(materialise(model, masks, dead_sublayer))

    refused("hidden dimensions are gone", hidden=3)
    refused(r"one of two sublayers is gone in the layers \[1\]", ffn=1)
    refused(r"heads are gone in the living layers \[0\]", head=(0, 1))
    refused("living layers have 31, 32 intermediate dimensions", intermediate=(0, 5))
    refused("layers that are gone keep their norms", "keep_norm", attention=0, ffn=0)
    refused("no layer lives", attention=slice(None), ffn=slice(None))


def test_a_pre_norm_encoder_cannot_lose_its_first_layer():
    """Its first layer has no norm of attention, and a later one would lose its own."""
    model = small_model("modernbert")
    masks = StructureMasks.ones(sizes_of(model))
    masks.attention[0] = masks.ffn[0] = 0
    with pytest.raises(MaterialiseError, match="layer 0 is gone"):
        smaller(materialise(model, masks))
