"""Attention in 8 bits: its products against whole numbers, its ranges, and that nothing of it stays behind."""

import pytest
import torch

from ofa.config import QuantizationConfig
from ofa.downstream.qat.attention import HOOK, NAME
from ofa.downstream.qat.fake_quant import quantise_activation
from ofa.downstream.qat.prepare import sites_of
from tests.runtime_cases import calibrated
from tests.structures import uneven_model
from tests.task_parts import ARCHITECTURES, batch_of, random_rows, save_model, small_model

KIND = "classification"
BATCH, _ = batch_of(random_rows(KIND), KIND)


def in_8_bits(model, batch=BATCH):
    """Its quantisers, with ranges from a batch."""
    return calibrated(model, batch, attention_matmuls=True)


def integers(values, scale):
    """Whole numbers without their zero point, in float64."""
    return quantise_activation(values, scale.scale, scale.zero_point).double() - scale.zero_point


def softmax_of_integers(query, key, scales, mask, scaling):
    sums = integers(query, scales["query"]) @ integers(key, scales["key"]).transpose(-1, -2)
    scores = sums * (scales["query"].scale.double() * scales["key"].scale * scaling)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)


@pytest.mark.parametrize("padded", [0, 3])
def test_both_products_are_those_of_integers(padded):
    """OFA-35: sums of whole numbers, rescaled once; masked keys have the probability 0 exactly."""
    model = small_model("bert")
    quantisers = in_8_bits(model)
    name, module = next(iter(quantisers.sites.attentions.items()))
    scales = quantisers.scales().attentions[name]
    draw = torch.Generator().manual_seed(1)
    operands = tuple(torch.randn(2, 4, 9, 8, generator=draw) for _ in range(3))
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    mask[1, :, :, 9 - padded :] = False
    found = getattr(module, HOOK).forward(operands, mask, scaling=0.3, dropout=0.0).transpose(1, 2)
    probabilities = softmax_of_integers(*operands[:2], scales, mask, 0.3)
    levels = (probabilities * 255).round()
    assert not levels[1, ..., 9 - padded :].any()
    values = integers(operands[2], scales["value"])
    expected = levels @ values * (scales["value"].scale.double() / 255)
    one_level = values.abs().amax() * scales["value"].scale / 255  # fp32 may round another way at a half
    difference = (found.double() - expected).abs()
    assert difference.max() <= 1.01 * one_level
    assert (difference < 1e-5).double().mean() > 0.99


def test_padding_that_sees_no_key_spoils_nothing():
    """A local window beyond the end of a text is masked whole; what the text is answered is what it is alone."""
    model = small_model("modernbert", num_hidden_layers=4)
    assert {"full_attention", "sliding_attention"} == set(model.config.layer_types[1:])
    quantisers = in_8_bits(model)
    ids, mask = torch.full((2, 40), 7), torch.ones(2, 40, dtype=torch.int64)
    ids[1], mask[1, 5:] = torch.arange(40) % 9 + 5, 0
    with quantisers.calibrating(), torch.no_grad():
        quantisers.enter(mask.bool(), training=False)
        model(input_ids=ids, attention_mask=mask)
    assert quantisers.ranges._seen.isfinite().all()
    quantisers.ranges.discard()
    found = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[1:], model(input_ids=ids[1:, :5]).logits, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)


def test_training_drops_probabilities_and_lets_gradients_through():
    model = small_model("bert")
    quantisers = in_8_bits(model)
    own = getattr(next(iter(quantisers.sites.attentions.values())), HOOK)
    operands = tuple(torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3))
    kept = own.forward(operands, None, scaling=None, dropout=0.0)
    dropped = own.forward(operands, None, scaling=None, dropout=0.5)
    assert not torch.equal(kept, dropped)
    kept.square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in operands)


ATTENTION_DROPOUT_ALONE = {
    "bert": {"attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.0},
    "distilbert": {"attention_dropout": 0.5, "dropout": 0.0, "seq_classif_dropout": 0.0},
}
"""ModernBERT cannot have it alone: one rate drops probabilities and outputs."""


@pytest.mark.parametrize(("model_type", "changes"), ATTENTION_DROPOUT_ALONE.items())
def test_the_dropout_of_a_model_in_training_reaches_its_probabilities(model_type, changes):
    model = small_model(model_type, **changes)
    in_8_bits(model)

    def logits():
        return model(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask).logits

    evaluated = logits()
    assert torch.equal(logits(), evaluated)
    model.train()
    assert not torch.equal(logits(), logits()) and not torch.equal(logits(), evaluated)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_layer_has_ranges_of_three_operands_and_padding_does_not_count(model_type):
    model = small_model(model_type)
    ranges = in_8_bits(model).ranges
    own = [name for name in ranges.names if name.rpartition(".")[2] in ("query", "key", "value")]
    own = [name for name in own if not name.endswith((".input", ".output"))]
    assert len(own) == 3 * model.config.num_hidden_layers
    assert len(ranges.names) == len(set(ranges.names))
    other = small_model(model_type)
    batch = BATCH.to("cpu")
    batch.input_ids[batch.attention_mask == 0] = 11
    assert torch.equal(in_8_bits(other, batch).ranges.values, ranges.values)


def test_layers_without_attention_have_none():
    found = sites_of(uneven_model(), QuantizationConfig(attention_matmuls=True)).attentions
    assert list(found) == [f"bert.encoder.layer.{number}.attention.self" for number in (1, 2)]


def test_exclusion_names_attentions_too():
    settings = QuantizationConfig(attention_matmuls=True, exclude=["layer.0.attention.self$"])
    sites = sites_of(small_model("bert"), settings)
    assert list(sites.attentions) == ["bert.encoder.layer.1.attention.self"]
    assert "bert.encoder.layer.0.attention.self.query" in [site.name for site in sites.linears]


def test_nothing_of_it_stays_in_the_model_or_in_its_files(tmp_path):
    model = small_model("bert")
    before = model.config._attn_implementation
    quantisers = in_8_bits(model)
    assert model.config._attn_implementation == NAME
    assert NAME not in (save_model(tmp_path / "model", model) / "config.json").read_text()
    quantisers.remove()
    assert model.config._attn_implementation == before
    assert not any(hasattr(module, HOOK) for module in model.modules())
