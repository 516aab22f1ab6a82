"""The same global batch, however it is divided, gives the same losses, gradients and weights."""

import json

import pytest
from safetensors.torch import load_file

from tests import processes
from tests.corpora import write_corpus
from tests.e2e.conftest import TINY

ARCHITECTURE = {
    **TINY["model"]["architecture"],
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
CONFIG = {
    **TINY,
    "model": {"architecture": ARCHITECTURE},
    "optimizer": {"lr": 1e-3, "max_grad_norm": 0.5, "eps": 1e-4},
    "schedule": {"total_steps": 8, "warmup_steps": 1},
}
"""Clipping is at work, so that a gradient of the wrong size shows in the weights too; eps keeps Adam from dividing
rounding errors by rounding errors."""

DIVISIONS = {"whole": (1, 8), "two micro-batches": (1, 4), "two ranks": (2, 4), "both": (2, 2)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Metrics and exported weights of each division."""
    folder = tmp_path_factory.mktemp("divisions")
    write_corpus(folder / "data", rows=120)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    found = {}
    for name, (ranks, micro) in DIVISIONS.items():
        arguments = ("--config", "config.json", "--run-dir", name, "--set", f"batch.micro_size={micro}")
        processes.script("pretrain.py", *arguments, cwd=folder, ranks=ranks)
        lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
        weights = load_file(folder / name / "model" / "model.safetensors")
        found[name] = ([line for line in lines if "loss" in line], weights)
    return found


@pytest.mark.parametrize("name", list(DIVISIONS)[1:])
def test_losses_gradient_norms_and_weights_do_not_depend_on_the_division(runs, name):
    """OFA-16: means are over the global batch, through the engine's own averages over micro-batches and ranks."""
    (whole, weights), (divided, others) = runs["whole"], runs[name]
    for one, other in zip(whole, divided, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert max(line["grad_norm"] for line in whole) > 0.5, "nothing was clipped"
    for key, weight in weights.items():
        assert (others[key] - weight).abs().max() < 1e-5, key
