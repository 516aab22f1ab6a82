"""Structured pruning by the real command: three stages in one run, whatever the ranks, the stage and the
interruptions, and a small model that stock Auto classes load."""

import json
import os
import re
import signal
import sys
from functools import partial

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import ofa.downstream.cofi.run
from ofa.downstream.cofi.pruner import StructurePruner
from ofa.export.masks_file import read_masks
from ofa.models.materialise import prunable_parameters
from tests import processes
from tests.commands import command, overrides
from tests.e2e.test_resume import at_step, kill_when
from tests.finished_runs import finish, finished_once
from tests.run_files import metrics, model_bytes, validated
from tests.tiny_tasks import COFI, write_project

BEGIN, PRUNED, TOTAL = 4, 30, 38
"""Steps at which the stages of `cofi.json` change."""

HEAD, DENSE = 4 * 32 * 16, 2 * (4 * 32 * 32 + 2 * 32 * 64)
"""Weights of a head, and of all Linears."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with bases, teachers, tasks and their configs."""
    return write_project(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def pruned(tasks):
    """pruned(*overrides) -> the run folder of cofi.json; a run that is there is not made again."""
    return partial(finished_once("cofi.py", tasks), "cofi")


def test_the_small_model_is_what_the_run_says_and_scores_what_it_says(tasks, pruned):
    """COFI-36, 37, 9: counted in the tensors that Auto classes load; scored as the run has scored it."""
    folder = pruned()
    result, lines = json.loads((folder / "result.json").read_text()), validated(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert type(model).__name__ == "CompactBertForSequenceClassification"
    left = 1 - prunable_parameters(model) / DENSE
    assert 0.6 <= left <= 0.6 + HEAD / DENSE
    assert result["structure"]["structural_sparsity"] == pytest.approx(left, abs=1e-12)
    assert result["stages"] == {"begin": BEGIN, "ramp_end": 10, "pruned": PRUNED, "total": TOTAL}
    assert result["best_step"] >= PRUNED and lines[-1]["step"] == TOTAL
    of_small = [line["structural_sparsity"] for line in lines if line["step"] >= PRUNED]
    assert len(of_small) > 1 and set(of_small) == {result["structure"]["structural_sparsity"]}
    assert result["rows"][-1]["structural_sparsity"] == pytest.approx(left, abs=1e-12)
    assert "no finished model" not in (folder / "model" / "README.md").read_text()
    answer = command("verify.py", str(folder), cwd=tasks)
    assert answer.status == 0 and "from the middle of the run" not in answer.out, answer.out
    assert f"structure: {left:.2%} of the dense encoder's {DENSE:,} weights are gone" in answer.out
    assert result["rows"][-1]["name"] == "compact model"
    answer = command("evaluate.py", str(folder), "--json", cwd=tasks)
    assert answer.status == 0, answer.err
    line = json.loads(answer.out)
    assert line["metrics"]["validation_loss"] == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)
    assert line["structural_sparsity"] == pytest.approx(left, abs=1e-12)
    answer = command("evaluate.py", str(folder), cwd=tasks)
    assert "structure gone" in answer.out and "intermediate dimensions" in answer.out, answer


def test_gates_close_towards_the_target_and_the_masked_model_is_scored_at_it(pruned):
    """COFI-12, 14: expected sparsity follows the ramp; what is scored on the way is a hard structure of its target.
    COFI-37: gates end with their stage."""
    under = [line for line in metrics(pruned()) if {"expected_sparsity", "lambda_1"} & line.keys()]
    assert [line["step"] for line in under] == list(range(BEGIN, PRUNED))
    assert under[0]["expected_sparsity"] < 0.01 < 0.5 < under[-1]["expected_sparsity"]
    for line in validated(pruned()):
        target = 0.6 * min(1.0, max(0, line["step"] - BEGIN) / 6)
        assert target - 1e-9 <= line["structural_sparsity"] <= target + HEAD / DENSE


@pytest.mark.parametrize(
    "way",
    [
        "as it comes",
        *(
            pytest.param(way, marks=pytest.mark.slow)
            for way in ("hidden dimensions", "by magnitude", "multiply-adds, norms kept")
        ),
    ],
)
def test_the_small_model_takes_over_with_the_scores_of_the_masked_one(pruned, way):
    """COFI-25: what stage three begins with is the model under its hard masks, layer weights and all."""
    folder = pruned("finetune.epochs=0", *WAYS.get(way, ()))
    (first,) = [line for line in validated(folder) if line["step"] >= PRUNED]
    assert first["step"] == PRUNED and not any(line["step"] >= PRUNED for line in metrics(folder) if "loss" in line)
    said = re.search(r"under its last masks: validation loss ([\d.]+)", (folder / "log.txt").read_text())
    assert said and float(said[1]) == pytest.approx(first["validation_loss"], abs=6e-5)
    before = [line for line in validated(folder) if line["step"] < PRUNED][-1]
    assert abs(before["validation_loss"] - first["validation_loss"]) > 6e-5, "nothing was trained in between"


@pytest.mark.parametrize(
    "step",
    [pytest.param(BEGIN + 2, marks=pytest.mark.slow), PRUNED, pytest.param(PRUNED + 5, marks=pytest.mark.slow)],
    ids=["under masks", "at the change", "small"],
)
def test_killed_in_any_stage_it_ends_with_the_same_bytes(tasks, pruned, step):
    """COFI-38: gates, multipliers, moments and the structure are continued bit for bit."""
    whole = pruned()
    folder = tasks / f"killed-{step}"
    arguments = ("--config", "cofi.json", "--run-dir", str(folder))
    process = processes.start_script("cofi.py", *arguments, cwd=tasks, output=tasks / "killed.out")
    kill_when(process, at_step(folder, step))
    finish("cofi.py", tasks, "cofi", folder.name)
    assert metrics(folder) == metrics(whole)
    assert model_bytes(folder) == model_bytes(whole)
    assert (folder / "structure.json").read_bytes() == (whole / "structure.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["by magnitude", "milliseconds"])
def test_killed_under_masks_it_ends_with_the_same_bytes_in_other_ways_too(tasks, pruned, way):
    """COFI-38: masks by magnitude, and a table of times, are continued and not made again."""
    more = WAYS[way]
    if way == "milliseconds":  # two measurements differ: both runs have that of the first
        table = (pruned(*more) / "latency.json").read_bytes()
        (tasks / "killed-milliseconds").mkdir()
        (tasks / "killed-milliseconds" / "latency.json").write_bytes(table)
    whole, folder = pruned(*more), tasks / f"killed-{way.split()[-1]}"
    arguments = ("--config", "cofi.json", "--run-dir", str(folder), *overrides(*more))
    process = processes.start_script("cofi.py", *arguments, cwd=tasks, output=tasks / "killed.out")
    kill_when(process, at_step(folder, BEGIN + 3))
    finish("cofi.py", tasks, "cofi", folder.name, *more)
    assert metrics(folder) == metrics(whole)
    assert model_bytes(folder) == model_bytes(whole)


def test_gates_that_cannot_follow_are_warned_of_twice(pruned):
    """Before the run, since the ramp is short for their rate; and where units are cut that were open."""
    log = (pruned("structure.lr=0.05", "finetune.epochs=0") / "log.txt").read_text()
    assert "the target rises within 6 steps, and at structure.lr 0.05 gates need about 240 to follow: set " in log
    assert "set structure.ramp_epochs=20, with a schedule of more than 244 steps; or structure.lr=2\n" in log
    assert "units are cut that were open" in log


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(
            ["structure.ramp_epochs=20", "schedule.total_steps=245", "structure.lr=0.05"], marks=pytest.mark.slow
        ),
        ["structure.lr=2"],
    ],
)
def test_gates_that_are_helped_as_that_says_are_not_warned_of(pruned, values):
    assert "gates need" not in (pruned(*values, "finetune.epochs=0") / "log.txt").read_text()


def test_a_signal_between_the_stages_stops_the_run_after_the_next_ones_first_step(tasks, pruned, monkeypatch):
    """While the small model is cut out nothing can be saved; the request is kept, and nothing is lost."""
    whole, change = pruned(), ofa.downstream.cofi.run.small_from

    def interrupted(run):
        os.kill(os.getpid(), signal.SIGINT)
        return change(run)

    monkeypatch.setattr(ofa.downstream.cofi.run, "small_from", interrupted)
    arguments = ("--config", "cofi.json", "--run-dir", "between")
    answer = command("cofi.py", *arguments, cwd=tasks)
    assert answer.status == 75, answer.err
    assert (tasks / "between" / "checkpoints" / "latest").read_text().strip() == f"step-{PRUNED + 1:08d}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finish("cofi.py", tasks, "cofi", "between")
    assert model_bytes(tasks / "between") == model_bytes(whole)
    assert metrics(tasks / "between") == metrics(whole)


ENDED_WHILE_CUTTING = """
import os, runpy, signal, sys
import ofa.downstream.cofi.run as stages

change = stages.small_from
stages.small_from = lambda run: (os.kill(os.getpid(), signal.SIGTERM), change(run))[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NO_STAGE_THREE = ("finetune.epochs=0",)


def asked_in_the_last_update(tasks, run_dir, monkeypatch):
    """SIGTERM during the update after which the models change; the exit status."""
    after_step = StructurePruner.after_step

    def interrupted(pruner, coming):
        if coming.step == PRUNED:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(pruner, coming)

    with monkeypatch.context() as patched:
        patched.setattr(StructurePruner, "after_step", interrupted)
        arguments = ("--config", "cofi.json", "--run-dir", run_dir, *overrides(*NO_STAGE_THREE))
        return command("cofi.py", *arguments, cwd=tasks).status


def ended_while_cutting(tasks, run_dir, monkeypatch):
    """SIGTERM while the small model is cut out, in a process of its own; the exit status."""
    launch = str(processes.CHECKOUT / "launch" / "cofi.py")
    arguments = ("--config", "cofi.json", "--run-dir", run_dir, *overrides(*NO_STAGE_THREE))
    line = [sys.executable, "-c", ENDED_WHILE_CUTTING, launch, *arguments]
    return processes.finished(line, cwd=tasks, check=False).returncode


@pytest.mark.parametrize(
    ("moment", "status"),
    [(asked_in_the_last_update, 75), (ended_while_cutting, -signal.SIGTERM)],
    ids=["asked", "ended"],
)
def test_a_signal_at_the_change_of_models_where_no_stage_follows_loses_nothing(
    tasks, pruned, moment, status, monkeypatch
):
    """With the last update applied all is saved: what is asked then ends the run there, and while the small model is
    cut out and exported a signal ends the process at once; in both cases the next start exports the same bytes."""
    whole, run_dir = pruned(*NO_STAGE_THREE), f"no-stage-three-{abs(status)}"
    assert moment(tasks, run_dir, monkeypatch) == status
    folder = tasks / run_dir
    assert (folder / "checkpoints" / "latest").read_text().strip() == f"step-{PRUNED:08d}"
    assert not (folder / "result.json").exists() and not (folder / "model").exists()
    finish("cofi.py", tasks, "cofi", run_dir, *NO_STAGE_THREE)
    assert model_bytes(folder) == model_bytes(whole)
    assert metrics(folder) == metrics(whole)


def test_the_change_of_models_is_no_step_to_export(tasks, pruned):
    """Its checkpoint is one of the dense model; scored there, and never better after it, the small one ends well."""
    folder = pruned("schedule.total_steps=32", "finetune.lr=1e-12")
    result = json.loads((folder / "result.json").read_text())
    assert [line["step"] for line in validated(folder)][-3:] == [32, 36, 40]
    assert 32 < result["best_step"] <= 40


def test_another_runs_third_stage_is_gone_on_with(tasks, pruned):
    """`--resume` of a checkpoint whose structure stands in the other run's folder."""
    whole = pruned()
    step = sorted((whole / "checkpoints").glob("step-*"))[-2]
    arguments = ["--config", "cofi.json", "--run-dir", "branch", "--resume", str(step)]
    answer = command("cofi.py", *arguments, cwd=tasks)
    assert answer.status == 0, answer.err
    ours, theirs = metrics(tasks / "branch"), metrics(whole)
    assert PRUNED < ours[0]["step"] < TOTAL and ours == theirs[-len(ours) :]
    assert (tasks / "branch" / "structure.json").read_bytes() == (whole / "structure.json").read_bytes()


@pytest.fixture(scope="module")
def on_two_ranks(tasks):
    """The run folder of cofi.json on two ranks at ZeRO 2, every checkpoint kept."""
    arguments = ("--config", "cofi.json", "--run-dir", "two", "--set", "engine.zero_stage=2")
    processes.script("cofi.py", *arguments, "--set", "checkpoint.keep_last=20", cwd=tasks, ranks=2)
    return tasks / "two"


@pytest.mark.parametrize("step", [pytest.param(BEGIN + 8, marks=pytest.mark.slow), PRUNED + 2])
def test_another_number_of_ranks_goes_on_in_any_stage(tasks, on_two_ranks, step):
    """In a folder of its own, which may hold another structure from before: states are converted, and a final structure
    is that of the run they are of."""
    folder = tasks / f"one-{step}"
    folder.mkdir()
    kept = json.loads((on_two_ranks / "structure.json").read_text())
    (folder / "structure.json").write_text(json.dumps({**kept, "intermediate": [[0], [0]]}))
    checkpoint = on_two_ranks / "checkpoints" / f"step-{step:08d}"
    arguments = ("--config", "cofi.json", "--run-dir", folder.name, "--resume", str(checkpoint))
    answer = command("cofi.py", *arguments, cwd=tasks)
    assert answer.status == 0, answer.err
    assert "converting it" in (folder / "log.txt").read_text()
    if step > PRUNED:  # before, one rank draws other masks than two
        assert (folder / "structure.json").read_bytes() == (on_two_ranks / "structure.json").read_bytes()
    ours, theirs = (validated(one)[-1] for one in (folder, on_two_ranks))
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-2)


WAYS = {
    "of a sparse base": ("model.init=base", "lock=true", "structure.cost=nnz", "structure.sparsity=0.9"),
    "hidden dimensions": ("structure.hidden=true", "structure.sparsity=0.7"),
    "by magnitude": ("structure.method=magnitude",),
    "by magnitude of a sparse base": ("structure.method=magnitude", "model.init=base", "lock=true"),
    "milliseconds": ("structure.cost=latency", "structure.length=16", "structure.rows=2", "structure.precision=bf16"),
    "multiply-adds, norms kept": ("structure.cost=macs", "structure.length=16", "structure.dead_sublayer=keep_norm"),
    "without layers": ("structure.layers=false",),
    "whole layers only": ("structure.heads=false", "structure.intermediate=false", "structure.sparsity=0.5"),
    "answers only": ("objective.layer_weight=0", "objective.ce_weight=0.5"),
    "a trained model at once": ("model.init=teacher", "structure.begin_epochs=0"),
    "without a teacher": ("teacher=null", "objective.ce_weight=1", "objective.kd_weight=0", "objective.layer_weight=0"),
    "layers at random, free": ("objective.teacher_layers=random", "objective.matching=free"),
    "bf16": ("engine.precision=bf16",),
}
QUICK = ("of a sparse base",)


@pytest.mark.parametrize("way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_every_way_leads_to_a_small_model_that_scores_what_the_run_says(tasks, pruned, way):
    folder = pruned(*WAYS[way])
    result, config = (json.loads((folder / name).read_text()) for name in ("result.json", "config.json"))
    asked = config["config"]["structure"]
    lost, cost = (result["structure"][name] for name in ("structural_sparsity", "cost_sparsity"))
    assert asked["sparsity"] <= cost < 1 and 0 < lost < 1 and (lost == cost) == (asked["cost"] == "params")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert 1 - prunable_parameters(model) / DENSE == pytest.approx(lost, abs=1e-12)
    answer = command("evaluate.py", str(folder), "--json", cwd=tasks)
    assert answer.status == 0, answer.err
    scored = json.loads(answer.out)["metrics"]["validation_loss"]
    assert scored == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)
    if config["config"]["lock"]:
        weights = load_file(folder / "model" / "model.safetensors")
        masks = read_masks(folder / "model" / "masks.safetensors")
        assert masks and all(bool((weights[name][~keep] == 0).all()) for name, keep in masks.items())
        left = sum(int(weights[name].count_nonzero()) for name in masks if "pooler" not in name)
        if asked["cost"] == "nnz":
            assert 1 - left / DENSE == pytest.approx(cost, abs=1e-9)


@pytest.mark.slow
def test_a_run_whose_norms_are_kept_has_a_stock_form_of_the_same_scores(tasks, pruned):
    """COFI-29, by the commands."""
    folder = pruned(*WAYS["multiply-adds, norms kept"])
    answer = command("export.py", str(folder), "--format", "stock", cwd=tasks)
    assert answer.status == 0 and answer.out.startswith(f"exported to {folder / 'stock'}: bert, "), answer
    assert command("verify.py", str(folder / "stock"), cwd=tasks).status == 0
    compact, stock = (command("evaluate.py", str(folder / one), "--json", cwd=tasks) for one in ("model", "stock"))
    ours, theirs = (json.loads(one.out)["metrics"] for one in (compact, stock))
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "words", "questions"])
def test_every_kind_of_task_ends_in_the_best_of_its_small_models(tasks, kind):
    """COFI-36: regression, tokens and questions too; of the checkpoints of the small model alone, by the task's
    metric."""
    (tasks / f"cofi_{kind}.json").write_text(json.dumps({"base": f"{kind}.json", **COFI}))
    run_dir = f"kinds/{kind}"
    answer = command("cofi.py", "--config", f"cofi_{kind}.json", "--run-dir", run_dir, cwd=tasks)
    assert answer.status == 0, answer.err
    folder = tasks / run_dir
    result = json.loads((folder / "result.json").read_text())
    small = [line for line in validated(folder) if line["step"] > result["stages"]["pruned"]]
    best = max(small, key=lambda line: line[result["metric"]])
    assert result["best_step"] == best["step"] and result["rows"][-1][result["metric"]] == pytest.approx(
        best[result["metric"]], rel=1e-5
    )


def test_a_locked_model_of_which_no_layer_is_left_is_exported(tasks, pruned):
    """The zeros of its layers are gone with their units; those of the pooler are kept."""
    folder = pruned("model.init=base", "lock=true", "structure.sparsity=0.99999", "finetune.epochs=1")
    result, recipe = (json.loads((folder / name).read_text()) for name in ("result.json", "model/recipe.json"))
    assert result["structure"]["structural_sparsity"] == 1.0
    assert list(recipe["lock"]["patterns"]) == ["bert.pooler.dense.weight"]
    answer = command("verify.py", str(folder), cwd=tasks)
    assert answer.status == 0, answer.out + answer.err
    card = (folder / "model" / "README.md").read_text()
    assert "100 % of its structure pruned, " in card and " zeros kept" in card and "| 1 | 0 | 0 |" in card
    assert "the encoder does nothing" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_locked_model_of_which_nothing_prunable_is_left_is_exported_without_a_lock(tasks):
    """A model for tokens has no pooler: every zero of its base is gone."""
    (tasks / "cofi_words.json").write_text(json.dumps({"base": "words.json", **COFI}))
    pairs = overrides("model.init=base", "lock=true", "structure.sparsity=0.99999")
    answer = command("cofi.py", "--config", "cofi_words.json", "--run-dir", "nothing", *pairs, cwd=tasks)
    assert answer.status == 0, answer.err
    assert "lock" not in json.loads((tasks / "nothing" / "model" / "recipe.json").read_text())
    assert not (tasks / "nothing" / "model" / "masks.safetensors").exists()
    answer = command("verify.py", "nothing", cwd=tasks)
    assert answer.status == 0, answer.out + answer.err


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_end_with_one_structure_and_one_model(tasks, stage):
    """At every stage: the target is met, and the model that is cut out scores what the run says. That gates are alike
    on all ranks is COFI-17's own test."""
    run_dir = f"two-{stage}"
    arguments = ("--config", "cofi.json", "--run-dir", run_dir, "--set", f"engine.zero_stage={stage}")
    processes.script("cofi.py", *arguments, cwd=tasks, ranks=2)
    result = json.loads((tasks / run_dir / "result.json").read_text())
    assert 0.6 <= result["structure"]["structural_sparsity"] <= 0.6 + HEAD / DENSE
    answer = command("evaluate.py", run_dir, "--json", cwd=tasks)
    scored = json.loads(answer.out)["metrics"]["validation_loss"]
    assert scored == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)
