"""The adapter rows against the stock classes they describe."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining

from ofa.models.adapters import ADAPTERS, AdapterError, adapter_for, encoder_names, scope, shape
from ofa.models.sparsity import base_parameters, sparsities

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
EVERY_TYPE = [row.model_type for row in ADAPTERS]


def meta_model(kind, model_type, **sizes):
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(model_type, **sizes))


@pytest.mark.parametrize(
    ("kind", "model_type", "sizes", "tensors", "weights"),
    [
        (AutoModelForPreTraining, "bert", {}, 73, 85_524_480),
        (AutoModelForPreTraining, "bert", LARGE, 145, 303_038_464),
        (AutoModelForMaskedLM, "distilbert", {}, 36, 42_467_328),
        (AutoModelForMaskedLM, "roberta", {}, 72, 84_934_656),
        (AutoModelForMaskedLM, "bert", {}, 72, 84_934_656),
        (AutoModelForMaskedLM, "electra", {}, 72, 9_437_184),
        (AutoModelForMaskedLM, "modernbert", {}, 88, 110_297_088),
    ],
    ids=["bert-base", "bert-large", "distilbert", "roberta", "bert-base-mlm", "electra-small", "modernbert-base"],
)
def test_the_scope_has_the_published_size(kind, model_type, sizes, tensors, weights):
    """OFA-8"""
    scoped = scope(meta_model(kind, model_type, **sizes))
    assert (len(scoped), sum(weight.numel() for weight in scoped.values())) == (tensors, weights)


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_scope_holds_no_head_no_embedding_no_bias_and_no_norm(make, model_type):
    """OFA-8, OFA-9: only two-dimensional weights of Linears below the encoder's layers and the pooler."""
    model = make.small_model(model_type)
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    base = adapter_for(model_type).base
    outside = {"electra.embeddings_project.weight"}
    assert set(scope(model)) == {name for name in linears if name.startswith(f"{base}.")} - outside


def test_the_scope_is_ordered_by_layer_with_the_pooler_last(make):
    names = list(scope(make.small_model("bert", task="mlm_nsp")))
    assert names[0] == "bert.encoder.layer.0.attention.self.query.weight"
    assert names[5] == "bert.encoder.layer.0.output.dense.weight"
    assert names[6] == "bert.encoder.layer.1.attention.self.query.weight"
    assert names[-1] == "bert.pooler.dense.weight" and len(names) == 13


def test_names_of_the_scope_are_those_of_the_state_dict(make):
    model = make.small_model("bert", task="mlm_nsp")
    state = model.state_dict()
    assert all(state[name].data_ptr() == weight.data_ptr() for name, weight in scope(model).items())


def test_a_renamed_module_is_an_error_that_counts_and_names_what_is_missing(make):
    model = make.small_model("bert", task="mlm_nsp")
    attention = model.bert.encoder.layer[1].attention
    attention.self.q = attention.self.query
    del attention.self.query
    with pytest.raises(AdapterError, match=r"adapter bert: 12 of 13 scoped weights matched; missing bert") as error:
        scope(model)
    assert "missing bert.encoder.layer.1.attention.self.query.weight" in str(error.value)
    assert "does not name: bert.encoder.layer.1.attention.self.q.weight" in str(error.value)


def test_a_renamed_pooler_is_an_error_where_a_pair_head_needs_it(make):
    model = make.small_model("bert", task="mlm_nsp")
    model.bert.pooler.linear = model.bert.pooler.dense
    del model.bert.pooler.dense
    with pytest.raises(AdapterError, match=r"12 of 13 .* missing bert\.pooler\.dense\.weight"):
        scope(model)


def test_a_linear_of_the_encoder_that_the_row_does_not_know_is_an_error(make):
    model = make.small_model("bert")
    model.bert.encoder.layer[0].gate = nn.Linear(4, 4)
    with pytest.raises(AdapterError, match=r"the row does not name: bert\.encoder\.layer\.0\.gate\.weight"):
        scope(model)


def test_an_unknown_architecture_is_an_error_that_lists_the_known_ones():
    with pytest.raises(AdapterError, match="albert.*bert, roberta, distilbert, electra, modernbert"):
        adapter_for("albert")


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_sizes_are_read_from_any_config(make, model_type):
    sizes = shape(make.small_model(model_type).config)
    assert (sizes.layers, sizes.hidden, sizes.intermediate, sizes.heads, sizes.vocab) == (2, 32, 64, 4, make.VOCAB)


def test_roberta_positions_begin_after_the_padding_index(make):
    config = make.small_model("roberta", pad_token_id=1).config
    adapter = adapter_for("roberta")
    assert (adapter.position_offset(config), adapter.longest_sequence(config)) == (2, 46)


def test_sparsity_is_reported_for_encoder_scope_and_model(make):
    """OFA-9: the model's share is of all parameters but the heads'; zeros outside the scope (biases) do not count."""
    model = make.small_model("bert", task="mlm_nsp")
    weights = scope(model)
    with torch.no_grad():
        for name in encoder_names(model):
            weights[name].view(-1)[: int(0.9 * weights[name].numel())] = 0
    encoder = sum(int(0.9 * weights[name].numel()) for name in encoder_names(model))
    assert sum(int((p == 0).sum()) for p in model.bert.parameters()) > encoder
    found = sparsities(model)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    assert found["encoder_sparsity"] == encoder / (sum(sizes.values()) - sizes["bert.pooler.dense.weight"])
    assert found["scope_sparsity"] == encoder / sum(sizes.values())
    assert found["model_sparsity"] == encoder / sum(p.numel() for p in model.bert.parameters())


def test_ninety_percent_of_the_scope_is_seventy_percent_of_bert_base():
    """OFA-9: of 109.5 million weights, as published, 32.5 million remain."""
    model = meta_model(AutoModelForPreTraining, "bert")
    base = sum(weight.numel() for weight in base_parameters(model).values())
    pruned = sum(int(0.9 * weight.numel()) for weight in scope(model).values())
    assert base == 109_482_240
    assert pruned / base == pytest.approx(0.703, abs=5e-4)
