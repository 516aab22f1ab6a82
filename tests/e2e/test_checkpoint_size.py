"""What a checkpoint holds and what it weighs, in both modes, on one rank and on two."""

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM

from ofa.export.masks_file import read_masks
from tests import processes

MASTER_AND_MOMENTS = 12
"""Bytes a parameter: fp32, three times."""

LIVE = {"sparse": 4, "hard": 2}
"""Bytes a parameter of the live weights: fp32 with weights that may return, bf16 with weights that may not."""

FILE = 20_000
"""Bytes of names, shapes and settings that a file may have besides."""


@pytest.fixture(scope="module", params=[pytest.param("sparse", marks=pytest.mark.slow), "hard"])
def mode(request):
    """Name of a config."""
    return request.param


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["1 rank", "2 ranks"])
def run(request, project, undisturbed, mode):
    """Ranks, and the folder of a finished run."""
    if request.param == 1:
        return 1, undisturbed[mode]
    folder = project / "sized" / mode
    arguments = ("--config", f"{mode}.json", "--run-dir", str(folder), "--set", "batch.micro_size=2")
    processes.script("pretrain.py", *arguments, cwd=project, ranks=2)
    return 2, folder


def test_a_checkpoint_weighs_weights_moments_and_one_bit_a_mask(run, mode):
    """OFA-31: no dense copy besides the master in the mode that lets weights return, no mask of a byte a weight, and of
    each rank its own part of masters and moments, once."""
    ranks, folder = run
    checkpoint = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip()
    sizes = {
        name: size for name, (size, _) in json.loads((checkpoint / "checkpoint.json").read_text())["files"].items()
    }
    model = AutoModelForMaskedLM.from_pretrained(folder / "model")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    masks = sum(keep.numel() for keep in read_masks(folder / "model" / "masks.safetensors").values()) / 8
    optimizers = {name for name in sizes if name.endswith("_optim_states.pt")}
    assert len(optimizers) == ranks and sizes.keys() - optimizers == {"mp_rank_00_model_states.pt"}
    weights = LIVE[mode] * parameters + masks
    assert weights < sizes["mp_rank_00_model_states.pt"] < weights + FILE
    for name in optimizers:
        share = MASTER_AND_MOMENTS * parameters / ranks
        assert 0.99 * share < sizes[name] < 1.01 * share + FILE
    kept = {path.name for path in checkpoint.iterdir()}
    assert kept == {*sizes, "checkpoint.json"}, "a file that is in no index"


def test_a_checkpoint_holds_masks_of_one_bit_and_no_second_copy_of_a_weight(run):
    """OFA-31, OFA-19: tensors of the model states are the student's, and the pruner's part is bits."""
    _, folder = run
    checkpoint = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip()
    saved = torch.load(checkpoint / "mp_rank_00_model_states.pt", weights_only=False)
    student = AutoModelForMaskedLM.from_pretrained(folder / "model").state_dict()
    assert saved["module"].keys() == {f"model.{name}" for name in student}
    keep = read_masks(folder / "model" / "masks.safetensors")
    assert {name: bits.nbytes for name, bits in saved["pruner"]["masks"].items()} == {
        name: -(-mask.numel() // 8) for name, mask in keep.items()
    }
    assert saved["pruner"].keys() == {"masks", "mask_hash", "hardened"}
