"""Which modules are quantised, by name."""

import pytest
from torch import nn

from ofa.config import QuantizationConfig
from ofa.downstream.qat.prepare import PreparationError, sites_of
from tests.structures import uneven_model
from tests.task_parts import ARCHITECTURES, small_model

NOT_REQUANTISED = ("output.dense", "value", "classifier", "qa_outputs")
"""The published substrings."""

LAYERS = {
    "bert": [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    "distilbert": [
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ],
}
PREFIX = {"bert": "bert.encoder.layer", "distilbert": "distilbert.transformer.layer"}
ENDS = {
    ("bert", "classification"): ["bert.pooler.dense", "classifier"],
    ("bert", "questions"): ["qa_outputs"],
    ("distilbert", "classification"): ["pre_classifier", "classifier"],
    ("distilbert", "questions"): ["qa_outputs"],
}


def names(model, **settings):
    return [site.name for site in sites_of(model, QuantizationConfig(**settings)).linears]


@pytest.mark.parametrize(("model_type", "head"), ENDS)
def test_the_name_map_of_a_family_is_exact(model_type, head):
    """OFA-36: Linears of the layers, the pooler where there is one, the task head; no embeddings."""
    model = small_model(model_type, head)
    layers = [f"{PREFIX[model_type]}.{number}.{path}" for number in range(2) for path in LAYERS[model_type]]
    assert names(model) == layers + ENDS[model_type, head]
    assert sites_of(model, QuantizationConfig()).tables == {}


@pytest.mark.parametrize("head", ["classification", "tokens", "questions"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_linear_is_quantised_but_a_projection_of_embeddings(model_type, head):
    model = small_model(model_type, head)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(names(model)) == {name for name in linears if "embeddings_project" not in name}


def test_outputs_that_are_requantised_are_the_published_ones_on_bert():
    """prune-ofa.md section 4: all but names with "output.dense", "value", "classifier", "qa_outputs"."""
    for head in ("classification", "questions"):
        sites = sites_of(small_model("bert", head), QuantizationConfig(preset="published")).linears
        assert [s.name for s in sites if s.output] == [
            s.name for s in sites if not any(part in s.name for part in NOT_REQUANTISED)
        ]
        assert any(s.output for s in sites)
    found = [s.name for s in sites_of(small_model("distilbert"), QuantizationConfig(outputs=True)).linears if s.output]
    assert {name.rpartition(".")[2] for name in found} == {"q_lin", "k_lin", "lin1"}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_queries_keys_and_values_have_one_input_and_nothing_else_shares(model_type):
    sites = sites_of(small_model(model_type), QuantizationConfig())
    shared = [site for site in sites.linears if site.input != site.name]
    fused = model_type == "modernbert"
    assert len(shared) == (0 if fused else 4)
    assert len(sites.places()) == len(set(sites.places())) == len(sites.linears) - len(shared)
    excluded = sites_of(small_model("bert"), QuantizationConfig(exclude=["query"])).linears
    assert [site.input for site in excluded[:2]] == [excluded[0].name] * 2 and "key" in excluded[0].name


def test_embeddings_and_exclusions_are_by_request():
    model = small_model("bert")
    tables = sites_of(model, QuantizationConfig(embeddings=True)).tables
    assert [name.rpartition(".")[2] for name in tables] == [
        "word_embeddings",
        "position_embeddings",
        "token_type_embeddings",
    ]
    assert "classifier" not in names(model, exclude=["^classifier$"])
    assert len(names(model, exclude=["layer.0"])) == len(names(model)) - 6
    with pytest.raises(PreparationError, match="'querry' matches none"):
        names(model, exclude=["querry"])
    with pytest.raises(PreparationError, match="leaves no Linear"):
        names(model, exclude=["."])


def test_compact_models_have_what_is_left_of_them():
    """Layers with dead sublayers lack their Linears."""
    small = uneven_model()
    found = names(small)
    assert not any("layer.0.attention" in name or "layer.2.output" in name for name in found)
    assert {"bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.attention.self.query"} < set(found)
    assert set(found) == {name for name, module in small.named_modules() if isinstance(module, nn.Linear)}
