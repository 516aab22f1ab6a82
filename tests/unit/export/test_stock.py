"""Structurally pruned models in folders of stock classes."""

import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ofa.export.hf import ExportError
from ofa.export.masks_file import read_masks
from ofa.export.quantization_file import QUANTIZATION_FILE
from ofa.export.recipe_file import read_recipe
from ofa.export.stock import check_same, export_stock
from ofa.export.verify import verify_folder
from ofa.models.adapters import scope
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise
from ofa.models.structure import StructureMasks
from tests.task_parts import save_model, small_model


def answers(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model, model(torch.arange(5, 15).view(2, 5)).logits


def test_a_sparse_compact_model_is_padded_with_its_masks_and_verified(exported_task, tmp_path):
    source = exported_task("rte", "compact")
    recipe = export_stock(source, tmp_path / "stock")
    model, found = answers(tmp_path / "stock")
    compact, expected = answers(source)
    assert type(model).__name__ == "BertForSequenceClassification" and type(compact).__name__.startswith("Compact")
    assert torch.allclose(found, expected, atol=1e-6) and expected.std() > 1e-3
    assert recipe["stock_form"].startswith("full size, zeros for what is gone: no stock config can say")
    verification = verify_folder(tmp_path / "stock")
    assert not verification.problems and verification.has_masks
    cut, whole = read_masks(source / "masks.safetensors"), read_masks(tmp_path / "stock" / "masks.safetensors")
    assert sum(int(mask.sum()) for mask in cut.values()) == sum(int(mask.sum()) for mask in whole.values())
    for name, keep in whole.items():
        assert torch.equal(scope(model)[name] != 0, keep)
    assert read_recipe(tmp_path / "stock")["lock"]["mask_hash"] != read_recipe(source)["lock"]["mask_hash"]
    card = (tmp_path / "stock" / "README.md").read_text()
    assert "trust_remote_code" not in card and "zeros for what is gone" in card


def compact_folder(tmp_path, *, hidden=False, dims=None):
    model = small_model("bert")
    masks = StructureMasks.ones(sizes_of(model), hidden=hidden)
    if hidden:
        masks.hidden[0] = 0
    if dims:
        masks.intermediate[:, dims:] = 0
    return save_model(tmp_path / "compact", materialise(model, masks))


def test_layers_that_are_alike_make_a_smaller_stock_model(tmp_path):
    source = compact_folder(tmp_path, dims=8)
    recipe = export_stock(source, tmp_path / "stock")
    model, found = answers(tmp_path / "stock")
    assert recipe["stock_form"] == "smaller: all its layers are alike" and model.config.intermediate_size == 8
    assert torch.allclose(found, answers(source)[1], atol=1e-6)
    assert not verify_folder(tmp_path / "stock").problems


def test_what_has_no_stock_form_is_refused_and_leaves_nothing(tmp_path):
    source, output = compact_folder(tmp_path, hidden=True), tmp_path / "stock"
    with pytest.raises(ExportError, match="has no stock form: 1 hidden dimension .*trust_remote_code=True") as refused:
        export_stock(source, output)
    assert str(refused.value).count("hidden dimension") == 1
    stock = save_model(tmp_path / "whole", small_model("bert"))
    with pytest.raises(ExportError, match="is a BertForSequenceClassification already"):
        export_stock(stock, output)
    shutil.rmtree(source)
    source = compact_folder(tmp_path, dims=8)
    (source / QUANTIZATION_FILE).touch()
    with pytest.raises(ExportError, match="trained in 8 bits"):
        export_stock(source, output)
    assert not output.exists()


def test_another_answer_is_an_error():
    one, other = small_model("bert", seed=1).eval(), small_model("bert", seed=2).eval()
    check_same(one, one)
    with pytest.raises(ExportError, match="answers differ by"):
        check_same(one, other)
