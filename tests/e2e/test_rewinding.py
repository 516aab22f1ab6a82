"""Pruning in rounds: weights that go back to earlier values, and runs of it that are killed and started again.

The configs are the shipped ones cut short, so that what is shown of them here holds for those.
"""

import json
import shutil

import pytest
import torch

from ofa.engine.checkpoint_files import read_checkpoint
from ofa.pruning.mask_set import unpack
from tests import processes
from tests.e2e.conftest import TINY
from tests.e2e.test_resume import at_step, kill_when, while_saving
from tests.run_files import metrics, model_bytes

USUAL = {"initializer_range": 0.02, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}

SMALL = {
    **TINY,
    "data": {**TINY["data"], "max_predictions": None},
    "model": {"architecture": {**TINY["model"]["architecture"], **USUAL}, "init": "runs/teacher/model"},
    "teacher": {"init": "runs/teacher/model"},
    "evaluate": {"every": 10, "rows": None, "micro_size": None},
}

IMP = {
    **SMALL,
    "base": "tiny/imp_90.json",
    "schedule": {"total_steps": 24, "warmup_steps": 2, "rewind": {"start": 6, "end": 24, "frequency": 6}},
    "pruning": {"ramp_start": 6, "ramp_end": 18, "frequency": 6},
}
"""A round is as long as the first training and begins with its warm-up, so at a rate of exactly 0: the update after a
refresh changes no weight, and its checkpoint shows what the refresh left, bit for bit."""

WEIGHTS = {**IMP, "base": "tiny/weight_rewind_90.json"}

LATE = {
    **WEIGHTS,
    "schedule": {"total_steps": 18, "warmup_steps": 2, "rewind": {"start": 6, "end": 18, "frequency": 4}},
    "pruning": {"ramp_start": 6, "ramp_end": 14, "frequency": 4},
    "engine": {"threads": 1, "precision": "bf16", "zero_stage": 2},
    "checkpoint": {"every": 1, "keep_last": 100},
}
"""Goes back to step 2, when Adam has moments to forget; every step can be looked at."""


@pytest.fixture(scope="module")
def place(project):
    """The project's folder with the configs of this file."""
    for name, values in (("imp", IMP), ("weights", WEIGHTS), ("late", LATE)):
        (project / f"{name}.json").write_text(json.dumps(values))
    return project


@pytest.fixture(scope="module")
def undisturbed(place):
    """Run folders of `weights` and `late`, each left alone from start to end."""
    for name in ("weights", "late"):
        processes.script("pretrain.py", "--config", f"{name}.json", cwd=place)
    return {name: place / "runs" / name for name in ("weights", "late")}


def state_at(folder, step):
    """fp32 masters, keep masks, and Adam's state of rank 0 after `step` updates."""
    path = folder / "checkpoints" / f"step-{step:08d}"
    masters, saved = read_checkpoint(path, prefix="model.")
    keep = {name: unpack(bits, masters[name].shape) for name, bits in saved["pruner"]["masks"].items()}
    return masters, keep, adam_states(path)


def adam_states(path):
    """Step count and both moments of every group, as rank 0 wrote them."""
    file = next(iter(sorted(path.glob("*rank_0_*optim_states.pt"))))
    saved = torch.load(file, weights_only=False)["optimizer_state_dict"]
    return list(saved["base_optimizer_state"]["state"].values())


@pytest.mark.parametrize(
    ("name", "policy", "ranks", "settings"),
    [
        ("weights", "weights", 1, ()),
        pytest.param(
            *("weights", "weights", 2, ("engine.precision=bf16", "engine.zero_stage=2")), marks=pytest.mark.slow
        ),
        pytest.param("imp", "learning_rate", 1, (), marks=pytest.mark.slow),
    ],
)
def test_a_round_begins_with_old_or_trained_weights_under_masks_chosen_from_the_trained(
    place, name, policy, ranks, settings
):
    """OFA-14: weights, masks and moments of every round, on one rank and on two that share masters."""
    folder = place / "rounds" / f"{name}-{ranks}"
    wanted = ("checkpoint.every=1", "checkpoint.keep_last=100", *settings)
    arguments = ("--config", f"{name}.json", "--run-dir", str(folder), *(x for s in wanted for x in ("--set", s)))
    processes.script("pretrain.py", *arguments, cwd=place, ranks=ranks)
    first = state_at(folder, 0)[0] if policy == "weights" else None
    for step, sparsity in ((6, 1 - 0.1 ** (1 / 3)), (12, 1 - 0.1 ** (2 / 3)), (18, 0.9)):
        trained, before, _ = state_at(folder, step)
        now, keep, adam = state_at(folder, step + 1)
        source = trained if first is None else first
        for weight, value in source.items():
            assert torch.equal(now[weight], value * keep[weight] if weight in keep else value), weight
            assert weight not in keep or not torch.equal(trained[weight], value) or first is None
        for weight, kept in keep.items():
            assert_smallest_dropped(trained[weight].abs(), before[weight], kept, sparsity)
        forgot = [bool(state["step"] == 1) for state in adam]
        assert forgot == [policy == "weights"] * len(adam)


def assert_smallest_dropped(magnitude, before, keep, sparsity):
    """Of what lived the largest stay, as many as the target says; nothing returns."""
    assert not (keep & ~before).any()
    assert int((~keep).sum()) == int(sparsity * keep.numel())
    assert magnitude[keep].min() >= magnitude[before & ~keep].max()


@pytest.mark.slow
def test_the_moments_of_a_round_hold_its_own_gradients_only(undisturbed):
    """After one update from zero, m = (1 - b1) g and v = (1 - b2) g^2: one gradient explains both."""
    for step, alone in ((1, True), (2, False), (6, False), (7, True), (8, False), (11, True), (15, True)):
        for state in adam_states(undisturbed["late"] / "checkpoints" / f"step-{step:08d}"):
            gradient = state["exp_avg"] / 0.1
            explained = torch.allclose(gradient**2 * 0.001, state["exp_avg_sq"], rtol=1e-4, atol=0.0)
            assert explained == alone, f"step {step}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("weights", 0), ("late", 2)])
def test_a_rewinding_run_that_is_killed_again_and_again_ends_with_the_same_bytes(place, undisturbed, name, target):
    """OFA-29: killed while the state before a refresh is written, and inside a round; `late` is bf16 with ZeRO 2."""
    folder = place / "killed" / name
    arguments = ("--config", f"{name}.json", "--run-dir", str(folder), "--set", "checkpoint.every=2")
    second = 12 if name == "weights" else 10
    moments = [while_saving(folder, second), at_step(folder, second + 3)]
    output = place / f"killed-{name}.out"
    for reached in moments:
        process = processes.start_script("pretrain.py", *arguments, cwd=place, output=output)
        kill_when(process, reached)
    processes.script("pretrain.py", *arguments, cwd=place)
    assert output.read_text().count("continuing from") == 1
    assert f"weights rewound to step {target}" in output.read_text()
    assert model_bytes(folder) == model_bytes(undisturbed[name])
    assert metrics(folder) == metrics(undisturbed[name])


@pytest.mark.slow
def test_the_checkpoint_that_a_run_goes_back_to_outlives_the_others(undisturbed):
    kept = sorted(path.name for path in (undisturbed["weights"] / "checkpoints").glob("step-*"))
    assert kept == ["step-00000000", "step-00000020", "step-00000024"], "keep_last 2"


def unfinished(run, folder, step):
    """A copy of a finished run as it stood after `step` updates."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("result.json", "model", "report.html"))
    for path in (folder / "checkpoints").glob("step-*"):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)
    (folder / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    return folder


def contents(folder):
    """Every file's bytes, but for the lock, which names its last holder, and the log, which tells of an attempt."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "log.txt"))
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize(("damage", "words"), [("missing", "cannot be continued without"), ("damaged", "is damaged")])
def test_a_run_without_the_weights_it_goes_back_to_is_refused_before_it_continues(place, undisturbed, damage, words):
    """The refusal names the folder and leaves everything as it was."""
    folder = unfinished(undisturbed["late"], place / "without" / damage, 13)
    target = folder / "checkpoints" / "step-00000002"
    if damage == "missing":
        shutil.rmtree(target)
    else:
        (target / "mp_rank_00_model_states.pt").write_bytes(b"no weights")
    before = contents(folder)
    done = processes.script("pretrain.py", "--config", "late.json", "--run-dir", str(folder), cwd=place, check=False)
    assert done.returncode == 1
    assert words in done.stderr and "step-00000002" in done.stderr and "--resume DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(folder) == before


@pytest.mark.slow
def test_after_the_last_refresh_the_old_weights_are_not_asked_for(place, undisturbed):
    folder = unfinished(undisturbed["late"], place / "without" / "need", 15)
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    processes.script("pretrain.py", "--config", "late.json", "--run-dir", str(folder), cwd=place)
    assert model_bytes(folder) == model_bytes(undisturbed["late"])


@pytest.mark.slow
def test_a_branch_takes_the_old_weights_over_from_the_run_that_it_continues(place, undisturbed):
    """`--resume DIR` into a fresh folder from the state before a refresh; without what it needs it is refused."""
    source = undisturbed["late"] / "checkpoints"
    branch = place / "branch"
    arguments = ("--config", "late.json", "--run-dir", str(branch), "--resume")
    alone = place / "alone" / "checkpoints" / "step-00000010"
    shutil.copytree(source / "step-00000010", alone)
    shutil.copy(source.parent / "config.json", alone.parents[1])
    done = processes.script("pretrain.py", *arguments, str(alone), cwd=place, check=False)
    assert done.returncode == 1 and "cannot be continued without" in done.stderr and not branch.exists()

    processes.script("pretrain.py", *arguments, str(source / "step-00000010"), cwd=place)
    assert model_bytes(branch) == model_bytes(undisturbed["late"])
    assert metrics(branch) == [line for line in metrics(undisturbed["late"]) if line["step"] >= 10]
    assert (branch / "checkpoints" / "step-00000002").is_dir()
