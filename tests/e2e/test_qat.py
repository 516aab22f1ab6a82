"""Training in 8 bits by the real command: one folder that holds the model and its scales, whatever interrupts it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ofa.config import FinetuneConfig, load
from ofa.downstream.evaluation import evaluate_split
from ofa.downstream.qat.load import load_quantized
from ofa.downstream.task_data import open_task_data
from ofa.export.masks_file import read_masks
from ofa.models.task_training import TaskTraining
from ofa.runtimes.export_file import read_export
from ofa.runtimes.formats import FORMATS
from tests import processes
from tests.commands import command, overrides, refused, tree
from tests.e2e.test_resume import at_step, kill_when
from tests.run_files import metrics, model_bytes
from tests.tiny_tasks import write_pairs, write_project

QAT = {
    "base": "pairs.json",
    "model": {"init": "tuned/model"},
    "optimizer": {"lr": 3e-4},
    "quantization": {"calibration_rows": 32, "freeze_share": 0.25},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with bases and tasks, a sparse task model in `tuned`, and qat.json, which trains that in 8 bits."""
    folder = write_project(tmp_path_factory.mktemp("tasks"))
    (folder / "qat.json").write_text(json.dumps(QAT))
    changes = ("schedule.total_steps=60", "evaluate.every=60", "checkpoint.every=60", "optimizer.lr=0.01")
    made(folder, "finetune.py", "pairs.json", "tuned", *changes)
    return folder


@pytest.fixture(scope="module")
def quantised(tasks):
    """quantised(*overrides) -> the run folder of qat.json; a run that is there is not made again."""
    runs = {}

    def make(*pairs):
        if pairs not in runs:
            runs[pairs] = made(tasks, "qat.py", "qat.json", f"made-{len(runs)}", *pairs)
        return runs[pairs]

    return make


def made(tasks, script, config, run_dir, *pairs):
    """Run a config to its end in this process; its folder."""
    answer = command(script, "--config", config, "--run-dir", run_dir, *overrides(*pairs), cwd=tasks)
    assert answer.status == 0, answer.err
    return tasks / run_dir


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def scored_again(tasks, folder, monkeypatch):
    """The run's own evaluation of a folder that was read back; its outputs."""
    monkeypatch.chdir(tasks)
    config = load(FinetuneConfig, str(tasks / "pairs.json"), ["model.init=tuned/model"])
    data = open_task_data(config)
    model, _ = load_quantized(folder)
    module = TaskTraining(model, data.task.kind, config.objective).eval()
    size = config.evaluate.micro_size or config.batch.micro_size
    return evaluate_split(module, data.task.kind, data, data.validation, micro_size=size)


@pytest.mark.parametrize("preset", ["ours", "published"])
def test_the_folder_scores_what_the_run_says(tasks, quantised, monkeypatch, preset):
    """To the bit, in 8 bits; the float model that it began with stands in the table, and little is lost against it."""
    folder = quantised(f"quantization.preset={preset}")
    result = result_of(folder)
    again = scored_again(tasks, folder, monkeypatch)
    assert again.scores == {name: result["rows"][-1][name] for name in again.scores}
    answer = command("evaluate.py", str(folder), "--json", cwd=tasks)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)["metrics"]["validation_loss"]
    assert found == pytest.approx(again.scores["validation_loss"], rel=1e-6)
    (before,) = [row for row in result["rows"] if row["name"] == "fp32, before training in 8 bits"]
    assert before["accuracy"] >= 0.8, "nothing was learned before"
    assert result["rows"][-1]["accuracy"] >= before["accuracy"] - 0.05
    row = json.loads((folder / "results.jsonl").read_text())
    assert (row["bits"], row["preset"]) == (8, preset)


def test_zeros_are_the_bases_and_the_integers_have_them(tasks, quantised):
    """OFA-37: place by place, +0.0; at least as many zeros among the integers."""
    folder = quantised("quantization.preset=ours")
    weights, base = (load_file(one / "model" / "model.safetensors") for one in (folder, tasks / "tuned"))
    masks = read_masks(tasks / "tuned" / "model" / "masks.safetensors")
    kept = read_masks(folder / "model" / "masks.safetensors")
    assert masks and all(torch.equal(kept[name], mask) for name, mask in masks.items())
    for name, keep in masks.items():
        assert not weights[name][~keep].view(torch.int32).any()
        assert torch.equal(weights[name] == 0, base[name] == 0)
    block = json.loads((folder / "model" / "recipe.json").read_text())["quantization"]
    dropped = sum(int((~keep).sum()) for keep in masks.values())
    assert block["weights"] > block["int8_zeros"] >= dropped > 0
    assert len(block["linears"]) == 14 and block["tables"] == []
    answer = command("verify.py", str(folder), "--same-zeros-as", "tuned", cwd=tasks)
    assert answer.status == 0, answer.out + answer.err
    AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert "trained to compute in 8 bits: 14 Linears" in (folder / "model" / "README.md").read_text()


def test_the_exported_ranges_are_those_of_the_exported_step(tasks, monkeypatch):
    """A task whose score falls with every step: an early step is exported, with its own scales."""
    changes = ("task.path=tasks/contradicted", "schedule.total_steps=12", "quantization.freeze_share=0")
    folder = made(tasks_with_contradiction(tasks), "qat.py", "qat.json", "early", *changes, "optimizer.lr=0.01")
    result = result_of(folder)
    assert result["best_step"] < 12
    lines = {line["step"]: line for line in metrics(folder) if "validation_loss" in line}
    assert result["rows"][-1]["validation_loss"] == pytest.approx(
        lines[result["best_step"]]["validation_loss"], rel=1e-6
    )


def tasks_with_contradiction(tasks):
    """The same folder with a task whose validation split says the opposite."""
    if not (tasks / "tasks" / "contradicted").is_dir():
        write_pairs(tasks / "tasks" / "contradicted", contradicted=True)
    return tasks


def test_a_teacher_teaches_in_8_bits_too(tasks):
    """Alone, as published, to the run's end; the record says who taught."""
    teacher = ('teacher={"init": "tuned/model"}', "schedule.total_steps=12", "evaluate.every=12")
    folder = made(tasks, "qat.py", "qat.json", "taught", *teacher, "quantization.preset=published")
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["objective"]["ce_weight"], config["objective"]["kd_weight"]) == (0.0, 1.0)
    lines = [line for line in metrics(folder) if "kd" in line]
    assert len(lines) == 12 and all(line["loss"] == line["kd"] > 0 for line in lines)
    row = json.loads((folder / "results.jsonl").read_text())
    assert row["distilled"] and row["teacher"] == "tuned/model" and row["bits"] == 8
    parents = json.loads((folder / "model" / "recipe.json").read_text())["parents"]
    assert {parent["role"] for parent in parents} == {"init", "teacher"}


def test_8_bits_begin_where_they_are_told_to(tasks):
    """Until then the run is a float one, bit for bit; what is exported was scored later."""
    changes = ("schedule.total_steps=12", "evaluate.every=3", "checkpoint.every=3", "log.every=1")
    runs = {
        begin: made(tasks, "qat.py", "qat.json", f"from-{begin}", *changes, f"quantization.begin_step={begin}")
        for begin in (5, 9)
    }
    losses = {begin: [line["loss"] for line in metrics(folder) if "loss" in line] for begin, folder in runs.items()}
    assert losses[5][:5] == losses[9][:5] and losses[5][5] != losses[9][5]
    assert result_of(runs[9])["best_step"] == 12
    result = command("evaluate.py", str(runs[5]), "--json", cwd=tasks)
    assert result.status == 0 and (runs[5] / "model" / "quantization.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ours", "published"])
def test_killed_it_ends_with_the_same_bytes(tasks, quantised, preset):
    """OFA-34: ranges and widest weights are continued bit for bit."""
    whole = quantised(f"quantization.preset={preset}")
    folder = tasks / f"killed-{preset}"
    arguments = ("--config", "qat.json", "--run-dir", str(folder), *overrides(f"quantization.preset={preset}"))
    process = processes.start_script("qat.py", *arguments, cwd=tasks, output=tasks / "killed.out")
    kill_when(process, lambda: at_step(folder, 5))
    made(tasks, "qat.py", "qat.json", folder.name, f"quantization.preset={preset}")
    assert metrics(folder) == metrics(whole)
    assert model_bytes(folder) == model_bytes(whole)
    name = "quantization.safetensors"
    assert (folder / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_writes_it_for_a_runtime(tasks, quantised, name):
    """In int8, beside the model, held against rows of its task; a model that has no scales in fp32."""
    folder = quantised("quantization.preset=ours")
    answer = command("export.py", folder, "--format", name, cwd=tasks)
    assert answer.status == 0, answer.err
    said = read_export(folder / name)
    block = json.loads((folder / "model" / "recipe.json").read_text())["quantization"]
    assert (said["precision"], said["compared"]["of"]) == ("int8", "the validation split of text_classification")
    assert said["zeros"]["model"] <= said["zeros"]["file"] <= block["int8_zeros"]
    words = [line.split()[0] for line in answer.out.splitlines()]
    assert words == ["exported", "held", "99.5%", "torch", "torch", "zeros"], "few rows; what 8 bits change"
    answer = command("export.py", "tuned/model", "--format", name, "--rows", 9, cwd=tasks)
    assert answer.status == 0, answer.err
    plain = read_export(tasks / "tuned" / name)
    assert (plain["precision"], plain["compared"]["rows"]) == ("fp32", 9)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["tuned", "--format", "onnx", "--precision", "int8"], 1, ["no model that was trained in 8 bits"]),
        (["tuned"], 1, ["tuned is a run that fine-tunes a model", "its model, tuned/model", "--format"]),
        (["tuned", "--rows", "9"], 2, ["--rows is for a runtime: give --format onnx or openvino too"]),
        (["tuned", "--format", "onnx", "--checkpoint", "x"], 2, ["neither --from-reference nor --checkpoint"]),
        (["base", "--format", "onnx", "--output", "out"], 1, ["base is BertForPreTraining", "launch/finetune.py"]),
        (["dense", "--format", "onnx"], 1, ["stands in no run folder", "--output"]),
        (["tuned", "--format", "onnx", "--output", "tasks"], 1, ["tasks exists and is no exported model"]),
        (["tuned", "--format", "onnx", "--path", "nowhere", "--output", "out"], 1, ["nowhere"]),
    ],
)
def test_what_cannot_be_exported_is_refused(tasks, arguments, status, words):
    before = tree(tasks)
    answer = command("export.py", *arguments, cwd=tasks)
    assert answer.status == status and "Traceback" not in answer.err, answer.err
    assert all(word in answer.err for word in words), answer.err
    assert tree(tasks) == before


def test_a_compact_model_goes_through(tasks, monkeypatch):
    """CoFi, then 8 bits."""
    small = made(tasks, "cofi.py", "cofi.json", "small")
    changes = ("model.init=small/model", "lock=false", "quantization.embeddings=true")
    folder = made(tasks, "qat.py", "qat.json", "compact", *changes)
    again, result = scored_again(tasks, folder, monkeypatch), result_of(folder)
    assert again.scores == {name: result["rows"][-1][name] for name in again.scores}
    structures = [json.loads((one / "model" / "config.json").read_text())["structure"] for one in (small, folder)]
    assert structures[0] == structures[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_end_with_one_model(tasks, stage, monkeypatch):
    run_dir = f"two-{stage}"
    arguments = ("--config", "qat.json", "--run-dir", run_dir, "--set", f"engine.zero_stage={stage}")
    processes.script("qat.py", *arguments, cwd=tasks, ranks=2)
    again, result = scored_again(tasks, tasks / run_dir, monkeypatch), result_of(tasks / run_dir)
    assert again.scores["validation_loss"] == pytest.approx(result["rows"][-1]["validation_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["quantization.begin_step=8"], ["begin_step is 8 and the run has 8 steps", "nothing would be trained"]),
        (['quantization.exclude=["querry"]'], ["'querry' matches none of the modules"]),
        (["quantization.weight_divisor=100"], ["quantization.weight_divisor"]),
        (["model.init=dense"], ["there is no zero to keep", "Set lock to false"]),
    ],
    ids=["begins too late", "excludes nothing", "divisor", "no zeros"],
)
def test_what_cannot_be_is_refused(tasks, request, changes, words):
    folder = request.node.callspec.id.replace(" ", "-")
    arguments = ["--config", "qat.json", "--run-dir", folder, *overrides(*changes)]
    answer = command("qat.py", *arguments, cwd=tasks)
    assert answer.status == 1 and "Traceback" not in answer.err, answer.err
    (line,) = answer.lines_of_error()
    assert all(word in line for word in words), line
    assert not (tasks / folder / "metrics.jsonl").exists() and not (tasks / folder / "config.json").exists()


def test_configs_of_other_kinds_are_sent_to_their_scripts(tasks):
    refused(tasks, "--config", "pairs.json", script_name="qat.py", words=["fine-tunes a model", "launch/finetune.py"])
    refused(tasks, "--config", "qat.json", script_name="finetune.py", words=["trains a task model in 8 bits", "qat.py"])
