"""Rows of structural pruning against the stock classes that they describe."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ofa.models.adapters import ADAPTERS, scope, shape
from ofa.models.architecture import AdapterError
from ofa.models.blocks import blocks_of, reader_paths, sizes_of, stream_of

EVERY_TYPE = [row.model_type for row in ADAPTERS]
TASKS = (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering)


def task_model(make, model_type, kind=AutoModelForSequenceClassification):
    return kind.from_config(AutoConfig.for_model(**make.architecture_of(model_type))).eval()


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_blocks_hold_every_prunable_weight_of_the_layers_in_its_order(make, model_type):
    model = task_model(make, model_type)
    names = [block.weight_name(path) for block in blocks_of(model) for path in block.paths.linears()]
    found = [
        linear.weight
        for block in blocks_of(model)
        for linear in (*block.qkv, block.attention_out, block.up, block.down)
    ]
    scoped = scope(model)
    assert names == list(scoped)[: len(names)] and all("pooler" in name for name in list(scoped)[len(names) :])
    assert all(weight is scoped[name] for weight, name in zip(found, names, strict=True))


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_sizes_are_those_of_the_modules(make, model_type):
    model = task_model(make, model_type)
    sizes, block = sizes_of(model), blocks_of(model)[-1]
    assert sizes.layers == shape(model.config).layers == len(blocks_of(model))
    assert (sizes.hidden, sizes.heads * sizes.head_size) == tuple(block.attention_out.weight.shape)
    assert (sizes.hidden, sizes.intermediate) == tuple(block.down.weight.shape)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__.removeprefix("AutoModelFor"))
@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_readers_are_all_that_reads_the_final_hidden_states(make, model_type, kind):
    """Every Linear outside the layers is fed a marked tensor, or what was made of one by another Linear."""
    model = task_model(make, model_type, kind)
    stream = stream_of(model)
    last = stream.final_norm or blocks_of(model)[-1].ffn_norm
    final, fed = [], {}
    last.register_forward_hook(lambda module, args, out: final.append(out))
    inside = {id(module) for block in blocks_of(model) for module in block.layer.modules()} | {id(stream.projection)}
    outside = [one for one in model.modules() if isinstance(one, nn.Linear) and id(one) not in inside]
    for linear in outside:
        linear.register_forward_hook(lambda module, args, out: fed.__setitem__(module, args[0]))
    model(input_ids=torch.arange(5, 15)[None])
    rows = final[-1].flatten(0, 1)
    readers = {
        linear for linear, seen in fed.items() if seen.shape[-1] == rows.shape[-1] and torch.isin(seen, rows).all()
    }
    assert {model.get_submodule(path) for path in reader_paths(model)} == readers and readers


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_the_embeddings_are_all_tables_of_the_model(make, model_type):
    model = task_model(make, model_type)
    assert set(stream_of(model).embeddings) == {one for one in model.modules() if isinstance(one, nn.Embedding)}


def test_a_renamed_module_is_an_error_that_names_its_path(make):
    model = task_model(make, "bert")
    output = model.bert.encoder.layer[1].output
    output.projection = output.dense
    del output.dense
    with pytest.raises(
        AdapterError, match=r"found no module at bert\.encoder\.layer\.1\.output\.dense, expected a Lin"
    ):
        blocks_of(model)


def test_a_layer_of_other_sizes_is_an_error_that_says_both(make):
    model = task_model(make, "bert")
    model.bert.encoder.layer[0].output.dense = nn.Linear(60, 32)
    with pytest.raises(AdapterError, match=r"layer\.0\.output\.dense\.weight is \[32, 60\], expected \[32, 64\]"):
        blocks_of(model)


def test_a_class_without_readers_is_an_error_that_lists_the_known_ones(make):
    with pytest.raises(AdapterError, match="BertForMaskedLM is not known, only of classes that end in ForSequence"):
        reader_paths(make.small_model("bert"))
