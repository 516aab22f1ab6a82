"""The table of tasks, and what is refused before anything is read."""

import subprocess
import sys
from pathlib import Path

import pytest

from ofa.config import TaskConfig
from ofa.data.task_files import check_files, find_files
from ofa.data.tasks import TASKS, TaskError, task_for

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
GENERIC = ("text_classification", "text_regression", "token_classification")


def config(name, **values):
    return TaskConfig.model_validate({"name": name, **values})


def own(**values):
    return config("text_classification", **{"text_column": "t", "label_column": "l", "path": "x", **values})


def test_the_table_has_every_task():
    assert set(TASKS) == {*GLUE, "squad", "squad_v2", *GENERIC}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_rows_are_sound(task):
    assert task.best in task.metrics
    assert (task.hub is None) == (task.name in GENERIC)
    assert task.kind in ("classification", "tokens") or not task.labels
    assert list(task.spellings.values()) == list(task.labels)
    assert task.max_length == (384 if task.kind == "questions" else 128)
    assert not task.files or {"train", "validation"} <= set(task.files)


def test_class_names_stand_in_the_order_of_the_published_ids():
    """nyu-mll/glue: the features of its configurations."""
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")
    assert TASKS["wnli"].labels == ("not_entailment", "entailment")
    assert TASKS["mrpc"].labels == ("not_equivalent", "equivalent")
    assert TASKS["cola"].labels == ("unacceptable", "acceptable")
    assert TASKS["sst2"].labels == ("negative", "positive")
    assert TASKS["qqp"].labels == ("not_duplicate", "duplicate")


@pytest.mark.parametrize("module", ["tasks", "task_files", "task_sources"])
def test_nothing_heavy_is_imported_to_read_examples(module):
    """Bad input is refused before torch is there."""
    code = f"import sys, ofa.data.{module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "tokenizers", "pyarrow", "pandas"} & set(found)


def test_the_config_stands_over_the_row():
    task = task_for(config("mrpc", label_column="gold", labels=["equivalent", "not_equivalent"], max_length=64))
    assert (task.text, task.pair, task.label) == ("#1 String", "#2 String", "gold")
    assert task.labels == ("equivalent", "not_equivalent") and task.max_length == 64
    assert task_for(own(pair_column="p")).pair == "p"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "mprc"}, "no task 'mprc'; did you mean mrpc?"),
        ({"name": "text_classification", "path": "x"}, "give task.text_column and task.label_column"),
        ({"name": "text_regression", "path": "x", "text_column": "t"}, "give task.label_column"),
        ({"name": "text_classification", "text_column": "t", "label_column": "l"}, "give task.path .* or task.dataset"),
        ({"name": "squad", "text_column": "q", "labels": ["a", "b"]}, "remove task.text_column, task.labels"),
        ({"name": "stsb", "labels": ["a", "b"]}, "has no classes: remove task.labels"),
        (
            {"name": "token_classification", "path": "x", "text_column": "t", "label_column": "l", "pair_column": "p"},
            "remove task.pair_column",
        ),
        (
            {"name": "text_classification", "path": "x", "text_column": "t", "label_column": "l"}
            | {"other_labels": "drop"},
            "give task.labels",
        ),
    ],
)
def test_what_no_task_can_use_is_refused(values, message):
    with pytest.raises(TaskError, match=message):
        task_for(TaskConfig.model_validate(values))


# ---- files --------------------------------------------------------------------------------------------------------


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return str(folder)


def found(value, split="train"):
    return [Path(path).name for path in find_files(task_for(value), value, split)]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".xz"])
def test_original_names_are_found_compressed_or_not(tmp_path, packed):
    names = [f"{one}.tsv{packed}" for one in ("train", "dev_matched", "dev_mismatched", "test_matched")]
    path = files(tmp_path, *names, "dev_ids.tsv")
    value = config("mnli", path=path)
    assert found(value) == [f"train.tsv{packed}"]
    assert found(value, "validation") == [f"dev_matched.tsv{packed}"]
    assert found(value, "validation_mismatched") == [f"dev_mismatched.tsv{packed}"]
    check_files(task_for(value), value)


def test_parquet_parts_as_the_hub_names_them_are_found(tmp_path):
    names = [f"train-0000{part}-of-00002.parquet" for part in (0, 1)]
    value = config("rte", path=files(tmp_path, *names, "validation-00000-of-00001.parquet"))
    assert found(value) == names and found(value, "validation") == ["validation-00000-of-00001.parquet"]


def test_splits_that_the_hub_calls_otherwise_are_found(tmp_path):
    names = [f"{split}-00000-of-00001.parquet" for split in ("train", "validation_matched", "validation_mismatched")]
    value = config("mnli", path=files(tmp_path, *names))
    splits = ("train", "validation", "validation_mismatched")
    assert [found(value, split) for split in splits] == [[name] for name in names]


def test_patterns_keep_their_order_and_no_file_comes_twice(tmp_path):
    path = files(tmp_path, "b/2.csv", "b/1.csv", "a.csv", "notes.md")
    assert found(own(path=path, train=["b/*.csv", "a.csv", "b/1.csv"])) == ["1.csv", "2.csv", "a.csv"]


def test_one_file_may_hold_both_splits(tmp_path):
    value = own(path=files(tmp_path, "all.csv", "notes.md"), split_column="split")
    assert found(value) == found(value, "validation") == ["all.csv"]
    value = own(path=files(tmp_path, "other.csv"), split_column="split", train=["other.csv"])
    assert found(value) == found(value, "validation") == ["other.csv"]


@pytest.mark.parametrize(
    ("there", "values", "message"),
    [
        (
            [],
            {},
            "no file of the train split in .*: expected train.*, there are no files at all; name it in task.train",
        ),
        (["train.csv", "x.csv"], {}, r"no file of the validation split .*expected validation.\* or dev.\*, there are"),
        (["train.csv", "train.jsonl"], {}, "more than one train split in .*: train.csv, train.jsonl; name it in"),
        (["a.csv"], {"train": ["b*.csv"]}, r"b\*.csv matches no file in .*; there are a.csv"),
        (["a.txt"], {"train": ["a.txt"]}, "a.txt: expected a file ending in .tsv, .tsv.gz"),
        (["a.csv"], {"train": ["/a.csv"]}, "are below task.path, found /a.csv"),
        (["train.csv"], {"encoding": "utf8x"}, "'utf8x' is no encoding; try utf-8, latin-1 or cp1252"),
    ],
)
def test_missing_files_are_refused_with_what_is_there(tmp_path, there, values, message):
    value = own(path=files(tmp_path, *there), **values)
    with pytest.raises(TaskError, match=message):
        check_files(task_for(value), value)


def test_a_missing_folder_and_an_unknown_split_are_refused(tmp_path):
    value = config("rte", path=str(tmp_path / "nowhere"))
    with pytest.raises(TaskError, match="expected a folder, found nothing at .*nowhere .working directory"):
        check_files(task_for(value), value)
    value = config("rte", dataset="./nowhere")
    with pytest.raises(TaskError, match="task.dataset: no folder ./nowhere"):
        check_files(task_for(value), value)
    value = config("rte", path=files(tmp_path, "train.tsv"))
    with pytest.raises(TaskError, match="rte has no split validation_mismatched, only train, validation, test"):
        find_files(task_for(value), value, "validation_mismatched")
