"""The same global batch, however it is divided, gives the same losses, gradients, masks and weights: by pruning with a
teacher on one, two and four ranks, and with accumulation."""

import pytest
from safetensors.torch import load_file

from ofa.export.masks_file import read_masks
from tests import processes
from tests.commands import overrides
from tests.e2e.conftest import TINY
from tests.projects import with_teacher
from tests.run_files import metrics, model_bytes

ARCHITECTURE = {
    **TINY["model"]["architecture"],
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TEACHER = {
    **TINY,
    "model": {"architecture": ARCHITECTURE},
    "batch": {"global_size": 32, "micro_size": 32},
    "optimizer": {"lr": 1e-2},
    "schedule": {"total_steps": 40, "warmup_steps": 1},
    "evaluate": {"every": 10, "micro_size": 4},
}
"""Trained until its weights matter. 23 validation rows do not divide by 4, nor their micro-batches by the ranks."""

SPARSE = {
    "base": "teacher.json",
    "model": {"init": "runs/teacher/model"},
    "teacher": {"init": "runs/teacher/model"},
    "optimizer": {"lr": 1e-3, "max_grad_norm": 0.1, "eps": 1e-4},
    "schedule": {"total_steps": 20, "rewind": {"start": 0, "end": 12, "frequency": 4}},
    "pruning": {"sparsity": 0.9, "ramp_end": 12, "end": 16, "frequency": 4},
}
"""fp32, weights may return, refreshes at 0, 4, 8, 12 and 16. Clipping is at work, so that a gradient of the wrong size
shows in the weights too; eps keeps Adam from dividing rounding errors by rounding errors."""

BOTH = "2x accumulated 2x8"
DIVISIONS = {"1x32": (1, 32), "accumulated 4x8": (1, 8), "2x16": (2, 16), BOTH: (2, 8), "4x8": (4, 8)}
"""Ranks, and rows of one micro-batch."""

DROPOUT = 0.1
"""Drawn by micro-batch of the global batch: the same for every division into equal micro-batches."""

ALIKE = {
    "1x32": [BOTH, "accumulated 4x8", "2x16", "4x8"],
    f"accumulated 4x8, dropout {DROPOUT}": [f"{BOTH}, dropout {DROPOUT}", f"4x8, dropout {DROPOUT}"],
}
"""By a division, others that must do the same."""

PAIRS = [
    pytest.param((whole, other), id=f"{whole} and {other}", marks=() if other == BOTH else pytest.mark.slow)
    for whole, others in ALIKE.items()
    for other in others
]
SAME_PLACES = 0.999


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, configs and a trained teacher."""
    return with_teacher(tmp_path_factory.mktemp("divisions"), teacher=TEACHER, sparse=SPARSE)


def divided(place, name, attempt="first"):
    """The run folder of a division, run if it is not there yet."""
    division, _, dropout = name.partition(", dropout ")
    ranks, micro = DIVISIONS[division]
    folder = place / attempt / name
    if not folder.exists():
        pairs = overrides(f"batch.micro_size={micro}", f"model.dropout={dropout or 0}")
        arguments = ("--config", "sparse.json", "--run-dir", str(folder), *pairs)
        processes.script("pretrain.py", *arguments, cwd=place, ranks=ranks)
    return folder


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, place):
    """Run folders of a division and of another one that must do the same."""
    return tuple(divided(place, name) for name in request.param)


def updates(folder):
    """Metrics lines of updates."""
    return [line for line in metrics(folder) if "loss" in line]


def test_losses_and_gradient_norms_do_not_depend_on_the_division(pair):
    """OFA-16: means are over the global batch, through the engine's own averages over micro-batches and ranks."""
    whole, others = map(updates, pair)
    assert len(whole) == len(others) == 20
    for one, other in zip(whole, others, strict=True):
        for key, small in (("loss", 0.0), ("masked_lm", 0.0), ("masked_lm_kd", 1e-6)):
            assert other[key] == pytest.approx(one[key], rel=1e-5, abs=small), (one["step"], key)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert max(line["grad_norm"] for line in whole) > 0.1, "nothing was clipped"
    assert max(line["masked_lm_kd"] for line in whole) > 0.01, "nothing was distilled"


def test_rates_and_targets_do_not_depend_on_the_division(pair):
    """OFA-30, OFA-13: and so do the counts of zeros of every step."""
    whole, others = map(updates, pair)
    for key in ("step", "lr", "target_sparsity", "sparsity", "encoder_sparsity", "model_sparsity"):
        assert [line[key] for line in others] == [line[key] for line in whole]
    assert len({line["target_sparsity"] for line in whole}) > 4 and sum(line["revived"] for line in whole) > 0


def test_masks_do_not_depend_on_the_division(pair):
    """OFA-30: exact counts in every tensor, and the same places but for weights that rounding decides about."""
    whole, others = (read_masks(folder / "model" / "masks.safetensors") for folder in pair)
    assert whole.keys() == others.keys() and len(whole) == 12
    for name, keep in whole.items():
        assert int((~keep).sum()) == int((~others[name]).sum()) == int(0.9 * keep.numel())
    same = sum(int((keep == others[name]).sum()) for name, keep in whole.items())
    assert same >= SAME_PLACES * sum(keep.numel() for keep in whole.values())


def test_weights_do_not_depend_on_the_division(pair):
    """OFA-30: every tensor within 1e-5, but for the places about which rounding decided."""
    masks = [read_masks(folder / "model" / "masks.safetensors") for folder in pair]
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in pair)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        difference = (others[key] - weight).abs()
        if key in masks[0]:
            difference = difference[masks[0][key] == masks[1][key]]
        assert difference.max() < 1e-5, key


def test_validation_does_not_depend_on_the_division(pair):
    """OFA-16 for scores: of the same weights, before the first update, and of what was made of them, after the last;
    the exported models are scored in their own micro-batches of 4 rows."""
    whole, others = ([line for line in metrics(folder) if "validation_loss" in line] for folder in pair)
    assert [line["step"] for line in whole] == [line["step"] for line in others] == [0, 10, 20]
    assert others[0]["validation_loss"] == pytest.approx(whole[0]["validation_loss"], rel=1e-6)
    assert others[0]["masked_accuracy"] == whole[0]["masked_accuracy"], "the same rows and predictions were counted"
    for one, other in zip(whole[1:], others[1:], strict=True):
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2x16", "4x8"])
def test_the_same_division_gives_the_same_bytes(place, name):
    """OFA-30: every exported file, and every number of the metrics."""
    one, again = divided(place, name), divided(place, name, "again")
    assert model_bytes(again) == model_bytes(one)
    assert metrics(again) == metrics(one)
