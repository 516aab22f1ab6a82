"""Zeros on their way through file formats and other people's code."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from ofa.config import ModelConfig
from ofa.export.count import same_bits
from ofa.export.hf import export_model
from ofa.export.masks_file import read_masks
from ofa.export.verify import verify_folder
from ofa.models.adapters import scope
from ofa.models.build import build_model


def through_stock(folder, made):
    """Load with stock transformers and save as it does."""
    AutoModelForPreTraining.from_pretrained(folder).save_pretrained(made)
    return made


def as_bin(folder, made):
    """Load with stock transformers and save its state in the old format, a pickle."""
    model = AutoModelForPreTraining.from_pretrained(folder)
    made.mkdir()
    model.config.save_pretrained(made)
    torch.save(model.state_dict(), made / "pytorch_model.bin")
    return made


WAYS = {
    "safetensors": [through_stock],
    "bin": [as_bin],
    "safetensors to bin to safetensors": [through_stock, as_bin, through_stock],
    "bin to safetensors to bin": [as_bin, through_stock, as_bin],
}


@pytest.mark.parametrize("way", WAYS)
def test_zeros_survive_other_formats_and_stock_code(exported, tmp_path, tokenizer_folder, run_recipe, way):
    """OFA-23: saved by stock code, loaded by ours, exported again: every bit of every weight, every zero in its place,
    and a folder that verifies."""
    saved, keep = load_file(exported / "model.safetensors"), read_masks(exported / "masks.safetensors")
    folder = exported
    for number, turn in enumerate(WAYS[way]):
        folder = turn(folder, tmp_path / f"turn-{number}")
    assert (folder / "pytorch_model.bin").exists() != (folder / "model.safetensors").exists()
    model = build_model(ModelConfig(architecture={}, init=str(folder), task="mlm_nsp"), seed=3)
    loaded = dict(model.named_parameters())
    assert all(same_bits(saved[name], loaded[name]) for name in saved if name in loaded)
    assert loaded.keys() <= saved.keys()
    for name, weight in scope(model).items():
        assert torch.equal(weight.detach() != 0, keep[name])
        assert not torch.signbit(weight.detach()[~keep[name]]).any()
    export_model(tmp_path / "again", model, tokenizer_folder, keep, run_recipe)
    assert verify_folder(tmp_path / "again", 0.9).problems == []
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
