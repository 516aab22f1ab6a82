"""What a task takes of any source: classes, columns, splits, and parts of them."""

import json
from dataclasses import replace

import pytest

from ofa.config import TaskConfig
from ofa.data.task_sources import read_split
from ofa.data.tasks import TaskError, task_for
from tests.task_tables import ROWS, config, read, write, write_rows


def test_a_class_may_be_called_by_a_number(tmp_path):
    write(tmp_path, "sentence\tlabel\nx\t0\ny\t1\n")
    assert read(name="sst2", path=str(tmp_path), labels=["1", "0"]).labels.tolist() == [1, 0]


def test_the_order_of_the_classes_follows_the_config(tmp_path):
    """Files that write ids mean the published order, whatever order the config gives the names."""
    write(tmp_path, "sentence\tlabel\nx\t0\ny\t1\n")
    assert read(name="sst2", path=str(tmp_path), labels=["positive", "negative"]).labels.tolist() == [1, 0]


def test_class_names_come_from_the_training_split(tmp_path):
    write(tmp_path, '{"text": "x", "label": 10}\n{"text": "y", "label": 9}\n', "train.jsonl")
    write(tmp_path, '{"text": "x", "label": 10}\n', "dev.jsonl")
    value = config(path=str(tmp_path))
    train = read_split(task_for(value), value, "train")
    assert train.class_names == ("9", "10"), "whole numbers are sorted by value"
    task = replace(task_for(value), labels=train.class_names)
    assert read_split(task, value, "validation").labels.tolist() == [1]


def test_columns_may_lie_in_objects(tmp_path):
    write(tmp_path, '{"a": {"b": "x"}, "meta": {"c": true}}\n{"a.b": "y", "meta": {"c": false}}\n', "train.jsonl")
    found = read(path=str(tmp_path), text_column="a.b", label_column="meta.c")
    assert found.texts == ["x", "y"] and found.class_names == ("false", "true")


def test_one_file_may_hold_both_splits(tmp_path):
    text = "text,label,split\nx,a,train\ny,b,validation\nz,b,train\nq,a,test\n"
    write(tmp_path, text, "all.csv")
    found = {split: read(split, path=str(tmp_path), split_column="split", labels=["a", "b"]).texts for split in SPLITS}
    assert found == {"train": ["x", "z"], "validation": ["y"], "test": ["q"]}
    with pytest.raises(TaskError, match="no column 'fold', there are text, label, split; set task.split_column"):
        read(path=str(tmp_path), split_column="fold")
    write(tmp_path, text + "r,a,held out\n", "all.csv")
    with pytest.raises(TaskError, match="line 6: split 'held out' in column split; expected one of train, validation"):
        read(path=str(tmp_path), split_column="split")


SPLITS = ("train", "validation", "test")


def test_other_labels_are_dropped_and_counted_before_rows_are(tmp_path):
    rows = "".join(f"t{number},{'abc'[number % 3]}\n" for number in range(9))
    write(tmp_path, "text,label\n" + rows, "train.csv")
    found = read(path=str(tmp_path), labels=["c", "a"], other_labels="drop", train_rows=4)
    numbers = [int(text[1:]) for text in found.texts]
    assert len(numbers) == 4 and numbers == sorted(numbers) and not any(number % 3 == 1 for number in numbers)
    assert found.labels.tolist() == [int(number % 3 == 0) for number in numbers]
    assert found.dropped == 3 and found.class_names == ("c", "a")


def test_a_part_of_a_split_is_a_random_one_and_always_the_same(tmp_path):
    """Files are often sorted by class: their beginning would hold one of them."""
    rows = "".join(f"t{number},{'ab'[number >= 100]}\n" for number in range(200))
    write(tmp_path, "text,label\n" + rows, "train.csv")
    found = read(path=str(tmp_path), train_rows=40)
    assert 10 <= found.labels.sum() <= 30 and found.texts != read(path=str(tmp_path)).texts[:40]
    assert found.texts == read(path=str(tmp_path), train_rows=40).texts


def test_words_come_as_lists_or_parted_by_spaces(tmp_path):
    write(tmp_path, '{"text": ["a", "b c"], "label": ["N", "V"]}\n', "train.jsonl")
    found = read(name="token_classification", path=str(tmp_path))
    assert found.words == [["a", "b c"]] and found.labels.tolist() == [0, 1] and found.class_names == ("N", "V")
    write(tmp_path, "text\tlabel\na  b\tV N\n", "other.tsv")
    found = read(name="token_classification", path=str(tmp_path), train=["other.tsv"])
    assert found.words == [["a", "b"]] and found.labels.tolist() == [1, 0]


def test_a_label_that_training_has_not_seen_is_refused(tmp_path):
    write(tmp_path, "text,label\nx,a\ny,c\n", "dev.csv")
    value = config(path=str(tmp_path))
    with pytest.raises(TaskError, match="dev.csv, line 3: unknown label 'c'; known: a, b"):
        read_split(replace(task_for(value), labels=("a", "b")), value, "validation")


def test_more_rows_than_there_are_are_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS, "csv")
    with pytest.raises(TaskError, match="the train split has 3 examples, asked for 4; leave task.train_rows out"):
        read(path=str(tmp_path), train_rows=4)
    assert len(read(path=str(tmp_path), train_rows=2)) == 2


def test_an_example_without_words_is_refused(tmp_path):
    """Batches of such rows would have no label to divide by."""
    lines = [{"words": ["a"], "tags": ["X"]}, {"words": [], "tags": []}, {"words": ["b"], "tags": ["Y"]}]
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "train.jsonl")
    config = TaskConfig(name="token_classification", path=str(tmp_path), text_column="words", label_column="tags")
    with pytest.raises(TaskError, match="line 2: no words; remove it"):
        read_split(task_for(config), config, "train")
