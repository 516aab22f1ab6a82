"""Wrong tasks, models and configs given to fine-tuning: one clear line that says what to do, and no trace."""

import json
import shutil

import pytest
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from ofa.export.masks_file import read_masks, write_masks
from tests import released
from tests.commands import command, overrides, refused
from tests.tiny_tasks import SIZE, write_project, write_teacher


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The project of `tests.tiny_tasks`, with models that do not fit."""
    folder = write_project(tmp_path_factory.mktemp("tasks"))
    write_teacher(folder / "cats", folder / "base", ("cat", "dog"))
    write_teacher(folder / "three", folder / "base", ("no", "yes", "maybe"))
    questions = BertForQuestionAnswering(BertConfig(**released.bert_config(SIZE)))
    questions.save_pretrained(folder / "questions")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "questions")
    masks = read_masks(folder / "base" / "masks.safetensors")
    for name, change in (("turned_masks", lambda mask: mask.flip(0)), ("narrow_masks", lambda mask: mask[:, :-2])):
        shutil.copytree(folder / "base", folder / name)
        write_masks(folder / name / "masks.safetensors", {key: change(mask) for key, mask in masks.items()})
    shutil.copytree(folder / "base", folder / "other_words")
    words = (folder / "base" / "vocab.txt").read_text().split()
    (folder / "other_words" / "vocab.txt").write_text("\n".join([*words[:-1], "zebra"]) + "\n")
    write_teacher(folder / "zebra", folder / "other_words")
    with_few_positions = BertForSequenceClassification(
        BertConfig(**{**released.bert_config(SIZE), "max_position_embeddings": 16}, id2label={0: "no", 1: "yes"})
    )
    with_few_positions.save_pretrained(folder / "short")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "short")
    return folder


VALUES = {
    "a label column that is not there": (["task.label_column=lable"], ["line 2: no column 'lable'", "first, second"]),
    "a text column that is not there": (["task.text_column=frist"], ["no column 'frist'", "set task.text_column"]),
    "classes without one": (['task.labels=["no","ja"]'], ["train.csv, line", "unknown label 'yes'", "known: no, ja"]),
    "a teacher of other classes": (["teacher.init=cats"], ["teacher cats", "cat, dog", "no, yes", "teacher.labels"]),
    "wrong names for its classes": (
        ["teacher.init=cats", 'teacher.labels=["a","b"]'],
        ["by teacher.labels", "classes a, b, expected no, yes"],
    ),
    "a teacher of three classes": (["teacher.init=three"], ["3 classes (no, yes, maybe)", "expected 2: no, yes"]),
    "a teacher without a task": (["teacher.init=base"], ["base is no task model", "BertForSequenceClassification"]),
    "a teacher of another task": (["teacher.init=questions"], ["questions is a BertForQuestionAnswering"]),
    "a teacher of other words": (["teacher.init=zebra"], ["another vocabulary", "'w59' is none there and id 59 here"]),
    "a teacher of few positions": (["teacher.init=short"], ["max_length is 48", "positions of short cover 16 tokens"]),
    "a head of another task": (
        ["model.init=questions", "lock=false"],
        ["model.init questions is a BertForQuestionAnswering", "model.new_head"],
    ),
    "a head of other classes": (["model.init=cats", "lock=false"], ["head for cat, dog", "no, yes", "new_head"]),
    "a dense base": (["model.init=dense"], ["no zero to keep among 17408", "Set lock to false"]),
    "masks of other places": (["model.init=turned_masks"], ["masks are not this model's", "remove masks.safetensors"]),
    "masks of another size": (["model.init=narrow_masks"], ["[32, 30]", "[32, 32]", "masks are of another model"]),
    "a folder that is not there": (
        ["task.path=tasks/nowhere"],
        ["task.path", "nothing at tasks/nowhere", "give the folder of the task's files"],
    ),
    "data to be prepared": (
        ["task.path=data/docstrings/documents"],
        ["task.path", "make it with: python -m data_prep --config data/docstrings.json"],
    ),
    "files of a task that the hub has": (
        ["task.name=sst2", "task.path=glue/SST-2"],
        ["nothing at glue/SST-2", "task.path=null for nyu-mll/glue on the hub"],
    ),
    "a base that is not there": (["model.init=./nowhere"], ["model.init: ", "nowhere", "launch/pretrain.py --config"]),
    "a teacher that is not there": (
        ["teacher.init=runs/mine/model"],
        ["teacher.init: ", "make one with: python launch/finetune.py --config <config> --run-dir runs/mine"],
    ),
    "a base to be made": (["model.init=runs/tiny/ofa_90/model"], ["pretrain.py --config tiny/ofa_90.json"]),
    "a teacher to be made": (
        ["teacher.init=runs/tiny/finetune_teacher/model"],
        ["python launch/finetune.py --config tiny/finetune_teacher.json"],
    ),
    "no such task": (["task.name=text_classificaton"], ["did you mean text_classification?"]),
    "no such encoding": (["task.encoding=utf-88"], ["'utf-88' is no encoding", "latin-1"]),
    "rows beyond the positions": (["task.max_length=49"], ["max_length is 49", "cover 48 tokens"]),
    "too many rows asked for": (["task.train_rows=1000"], ["has 96 examples, asked for 1000"]),
    "a batch above an epoch": (["batch.global_size=100"], ["global_size is 100", "96 rows", "at most 96"]),
    "two lengths": (["schedule.epochs=2"], ["epochs and schedule.total_steps", "set one of them to null"]),
    "distillation from nobody": (["objective.kd_weight=1"], ["kd_weight is above 0", "no teacher section"]),
    "no loss": (["objective.ce_weight=0"], ["both 0"]),
    "a lock and pruning": (
        ['pruning={"sparsity": 0.5, "ramp_end": 4, "frequency": 2}'],
        ["lock keeps the zeros", "set lock to false"],
    ),
    "pruning to the last step": (
        ["model.init=dense", "lock=false", 'pruning={"sparsity": 0.5, "ramp_end": 4, "end": 8, "frequency": 2}'],
        ["last refresh of the masks is at step 8", "the run has 8 steps"],
    ),
    "compiled layers": (["engine.compile=true"], ["engine.compile", "many widths", "set it to false"]),
    "numbers that are classes": (
        ["task.name=text_regression"],
        ["line 2, column label", 'a finite number, found "no"'],
    ),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_do_not_fit_are_refused(tasks, kind):
    values, words = VALUES[kind]
    arguments = ("--config", "pairs.json", "--run-dir", "new/run", *overrides(*values))
    refused(tasks, *arguments, script_name="finetune.py", words=words)


def rows(*lines):
    """A table of pairs."""
    return "".join(line + "\n" for line in ("first,second,label", *lines)).encode()


FILES = {
    "an unknown label": ("validation", rows("a,b,no", "a,b,maybe"), ["validation.csv, line 3: unknown label 'maybe'"]),
    "no training examples": ("train", rows(), ["the train split has no examples"]),
    "no validation examples": ("validation", rows(), ["the validation split has no examples"]),
    "an empty file": ("train", b"", ["the train split has no examples"]),
    "one class": ("train", rows("a,b,no", "b,c,no"), ["one class only: no", "task.labels"]),
    "another encoding": (
        "train",
        rows("caf\xe9,b,no").decode().encode("latin-1"),
        ["train.csv: not utf-8", "line 2", "task.encoding=latin-1"],
    ),
    "a cell too few": ("train", rows("a,b,no", "a,no"), ["train.csv, line 3: 2 columns, expected 3"]),
    "no file": ("validation", None, ["no file of the validation split", "name it in task.validation"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_cannot_be_read_are_refused(tasks, kind):
    split, content, words = FILES[kind]
    folder = tasks / "tasks" / "wrong"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tasks / "tasks" / "pairs", folder)
    if content is None:
        (folder / f"{split}.csv").unlink()
    else:
        (folder / f"{split}.csv").write_bytes(content)
    arguments = ("--config", "pairs.json", "--run-dir", "new/run", "--set", "task.path=tasks/wrong")
    refused(tasks, *arguments, script_name="finetune.py", words=words)


def test_a_config_of_the_other_command_is_refused(tasks):
    words = ["ofa_90.json pre-trains a model", "launch/pretrain.py"]
    refused(tasks, "--config", "tiny/ofa_90.json", script_name="finetune.py", words=words)
    refused(tasks, "--config", "pairs.json", words=["pairs.json fine-tunes a model", "launch/finetune.py"])


# ---- the teacher first ------------------------------------------------------------------------------------------


def test_a_teacher_that_nothing_makes_is_refused(tasks):
    words = ["--with-teacher: pairs.json has no teacher section"]
    refused(tasks, "--config", "pairs.json", "--with-teacher", script_name="finetune.py", words=words)
    arguments = ("--config", "taught.json", "--with-teacher", "--set", "teacher.init=nowhere")
    refused(tasks, *arguments, script_name="finetune.py", words=["--with-teacher: no config under", "makes nowhere"])
    answer = command("finetune.py", "--config", "pairs.json", "--set-teacher", "seed=1", cwd=tasks)
    assert answer.status == 2 and "needs --with-teacher" in answer.err


SHIPPED = (
    "task.path=tasks/pairs",
    'task.train=["train.csv"]',
    'task.validation=["validation.csv"]',
    "task.split_column=null",
    "task.text_column=second",
    "task.label_column=label",
    "task.labels=null",
    "task.other_labels=refuse",
    "task.max_length=48",
    "engine.threads=1",
)
"""The shipped embedded task, over the rows of the pairs."""


def test_the_teacher_is_made_first_by_its_shipped_config(tasks):
    """Its own base is looked for before hours of training, the overrides of the data hold for both."""
    own = ("schedule.total_steps=4", "checkpoint.every=4", "evaluate.every=4")
    base = ("model.init=base",)
    arguments = ("--config", "tiny/finetune.json", "--with-teacher", *overrides(*SHIPPED, *own, *base))
    refused(tasks, *arguments, script_name="finetune.py", words=["runs/tiny/teacher/model", "tiny/teacher.json"])
    shutil.copytree(tasks / "dense", tasks / "runs" / "tiny" / "teacher" / "model")
    missing = (*arguments, "--set", "model.init=runs/tiny/ofa_90/model")
    refused(tasks, *missing, script_name="finetune.py", words=["runs/tiny/ofa_90/model", "tiny/ofa_90.json"])
    wrong = (*arguments, *overrides("model.init=questions", "lock=false"))
    refused(tasks, *wrong, script_name="finetune.py", words=["model.init questions is a BertForQuestionAnswering"])
    wrong = ("--config", "tiny/cofi.json", "--with-teacher", *overrides(*SHIPPED, "structure.multiple=7"))
    refused(tasks, *wrong, script_name="cofi.py", words=["cannot be kept in multiples of 7"])
    exported = tasks / "exported" / "onnx"
    exported.mkdir(parents=True)
    for name in ("config.json", "export.json"):
        (exported / name).write_text("{}")
    wrong = ("--config", "tiny/cofi.json", "--with-teacher", *overrides(*SHIPPED, "model.init=exported/onnx"))
    refused(tasks, *wrong, script_name="cofi.py", words=["onnx was exported to a runtime", "no weights"])
    wrong = ("--config", "tiny/cofi.json", "--with-teacher", *overrides(*SHIPPED, "model.init=questions"))
    refused(tasks, *wrong, script_name="cofi.py", words=["model.init questions is a BertForQuestionAnswering"])

    arguments = (*arguments, "--set-teacher", "schedule.total_steps=2", "--set-teacher", "evaluate.every=1")
    answer = command("finetune.py", *arguments, cwd=tasks)
    assert answer.status == 0, answer.err
    steps = {}
    for name in ("finetune_teacher", "finetune"):
        result = json.loads((tasks / "runs" / "tiny" / name / "result.json").read_text())
        steps[name] = result["steps"]
    assert steps == {"finetune_teacher": 2, "finetune": 4}
    assert "teacher" in answer.out
    said = [line for line in answer.err.splitlines() if line.startswith(("reading", "tokenising", "finetune"))]
    begun = ["reading the train split of text_classification from tasks/pairs", "tokenising 96 rows of the train split"]
    assert said[:2] == begun, "before anything is trained"

    shutil.rmtree(tasks / "runs" / "tiny" / "finetune_teacher")
    answer = command("finetune.py", *arguments, cwd=tasks)
    assert answer.status == 0 and "already finished" in answer.out, answer.err
    assert not (tasks / "runs" / "tiny" / "finetune_teacher").exists(), "a finished run needs no teacher"
