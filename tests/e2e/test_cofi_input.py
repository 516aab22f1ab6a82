"""What structured pruning refuses, in one line that says what would be right; and what it can take."""

import json
import shutil

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from tests import released
from tests.commands import command, edit, overrides
from tests.e2e.test_bad_input import refused
from tests.tiny_tasks import CLASSES, SIZE, write_project

OTHERS = ("heads", "intermediate", "layers")
"""Families beside hidden dimensions, of which one always stays."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with bases, teachers, tasks and their configs; `big` is a teacher of other sizes."""
    folder = write_project(tmp_path_factory.mktemp("tasks"))
    sizes = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 96}
    config = BertConfig(**{**released.bert_config(SIZE), **sizes})
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: number for number, name in enumerate(CLASSES)}
    BertForSequenceClassification(config).save_pretrained(folder / "big")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "big")
    shutil.copytree(folder / "big", folder / "gpt")
    edit(folder / "gpt" / "config.json", lambda values: values.update(model_type="gpt2"))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["structure.intermediate=false", "structure.layers=false"],
            [
                "a sparsity of 0.6 in weights is out of reach: pruning head gives 0.0000 to 0.5000",
                "prune more families",
            ],
        ),
        (
            ["model.init=base", "lock=true", "structure.cost=nnz", "structure.sparsity=0.5"],
            ["a sparsity of 0.5 in weights that are not zero is out of reach", "0.7998 to 1.0000", "count weights"],
        ),
        (["structure.multiple=10"], ["64 intermediate dimensions cannot be kept in multiples of 10", "such as 8"]),
        (["structure.ramp_epochs=9"], ["the target would not be held for a single step", "raise schedule.epochs"]),
        (["lock=true"], ["there is no zero to keep", "Set lock to false"]),
        (["structure.sparsity=1.5"], ["structure.sparsity"]),
        (
            ["structure.heads=false", "structure.intermediate=false", "structure.layers=false"],
            ["nothing would be pruned"],
        ),
        (["structure.lamda=1"], ["structure.lamda"]),
        (
            ["structure.hidden=true", "structure.sparsity=0.97", *(f"structure.{one}=false" for one in OTHERS)],
            ["a sparsity of 0.97 in weights is out of reach: pruning hidden gives 0.0000 to 0.9688"],
        ),
        (["model.init=gpt"], ["gpt: no adapter for model_type 'gpt2'", "expected one of bert, roberta"]),
        (["teacher.init=gpt"], ["gpt: no adapter for model_type 'gpt2'", "expected one of bert, roberta"]),
    ],
    ids=["heads alone", "less than the base", "multiple", "ramp", "no zeros", "above 1", "nothing", "unknown key"]
    + ["hidden alone", "no row", "no row for the teacher"],
)
def test_what_cannot_be_is_refused(tasks, request, changes, words):
    folder = request.node.callspec.id.replace(" ", "-")
    arguments = ["--config", "cofi.json", "--run-dir", folder, *overrides(*changes)]
    refused(tasks, *arguments, script_name="cofi.py", words=words)
    assert not (tasks / folder / "metrics.jsonl").exists()


def test_configs_of_other_kinds_are_sent_to_their_scripts(tasks):
    refused(tasks, "--config", "taught.json", script_name="cofi.py", words=["fine-tunes a model", "launch/finetune.py"])
    refused(
        tasks, "--config", "cofi.json", script_name="finetune.py", words=["prunes a task model's structure", "cofi.py"]
    )


def test_a_larger_teacher_with_more_layers_teaches_and_another_target_is_no_continuation(tasks):
    """W is rectangular, and four of five layers are matched with two; the run is then held to its own config."""
    arguments = ["--config", "cofi.json", "--run-dir", "taught", *overrides("teacher.init=big")]
    answer = command("cofi.py", *arguments, cwd=tasks)
    assert answer.status == 0, answer.err
    lines = list(map(json.loads, (tasks / "taught" / "metrics.jsonl").read_text().splitlines()))
    assert {f"match.{number}" for number in range(1, 5)} <= next(line for line in lines if "loss" in line).keys()
    words = ["structure.sparsity", "0.6", "0.7"]
    refused(tasks, *arguments, *overrides("structure.sparsity=0.7"), script_name="cofi.py", words=words)

    step = min((tasks / "taught" / "checkpoints").glob("step-*"))
    for checkpoint in ("taught", str(step)):
        branch = ["--config", "cofi.json", "--run-dir", "branch", "--resume", checkpoint]
        answer = command("cofi.py", *branch, *overrides("teacher.init=big", "structure.sparsity=0.7"), cwd=tasks)
        assert answer.status == 1 and len(answer.err.splitlines()) == 1, "nothing was imported or read"
        for word in (*words, "serves the structure of its own run alone", "model.init, with structure.begin_epochs=0"):
            assert word in answer.err
        assert not (tasks / "branch").exists()
    faster = ["--config", "cofi.json", "--run-dir", "branch", "--resume", str(step), *overrides("optimizer.lr=0.5")]
    said = refused(tasks, *faster, *overrides("teacher.init=big"), script_name="cofi.py", words=["optimizer.lr"])
    assert said.endswith("begin anew, without --resume and in another --run-dir")
