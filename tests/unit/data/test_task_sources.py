"""Examples from files and datasets: the same labels from every source, and errors that name file and line."""

import csv
import gzip
import json
import lzma
from collections import Counter
from dataclasses import replace

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofa.config import TaskConfig
from ofa.data.task_sources import read_split
from ofa.data.tasks import TaskError, task_for

ROWS = [("good film", "pos"), ('a "bad', "neg"), ("so, so", "neg")]


def config(name="text_classification", **values):
    columns = {} if name not in ("text_classification", "text_regression", "token_classification") else OWN
    return TaskConfig.model_validate({"name": name, **columns, **values})


OWN = {"text_column": "text", "label_column": "label"}


def read(split="train", **values):
    value = config(**values)
    return read_split(task_for(value), value, split)


def write(folder, text, name="train.tsv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder)


def write_rows(path, rows, kind, columns=("text", "label")):
    """Rows of cells in one of the formats."""
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])


# ---- real data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "values", "counts"),
    [
        ("cola", "CoLA", {}, (8551, 1043, 1063)),
        ("sst2", "SST-2", {}, (67349, 872, 1821)),
        ("mrpc", "MRPC", {}, (3668, 408, 1725)),
        ("rte", "RTE", {}, (2490, 277, 3000)),
        ("stsb", "STS-B", {}, (5749, 1500, 1379)),
        ("wnli", "WNLI", {}, (635, 71, 146)),
        ("qnli", "QNLI", {"train": ["dev.tsv"]}, (5463, 5463, 5463)),
        ("qqp", "QQP_partial", {"validation": ["wang_dev.tsv"]}, (23497, 9284, None)),
        ("mnli", "MNLI_partial", {"train": ["*.tsv"], "validation": ["*.tsv"]}, (1000, 1000, None)),
    ],
)
def test_the_original_files_are_read_whole(glue, name, folder, values, counts):
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        if count is None:
            continue
        found = read(split, name=name, path=str(glue / folder), **values)
        assert len(found) == len(found.texts) == count and found.dropped == 0
        assert (found.labels is None) == (split == "test")
        assert all(text == text.strip("\r\n\ufeff") for text in found.texts)
        if found.labels is not None and name != "stsb":
            assert set(found.labels.tolist()) == set(range(len(found.class_names)))


def test_labels_of_known_examples(glue):
    mrpc = read(name="mrpc", path=str(glue / "MRPC"))
    assert mrpc.texts[0].startswith('Amrozi accused his brother , whom he called " the witness "')
    assert mrpc.class_names[mrpc.labels[0]] == "equivalent"
    cola = read("validation", name="cola", path=str(glue / "CoLA"))
    assert cola.texts[0] == "The sailors rode the breeze clear of the rocks." and cola.labels[0] == 1
    rte = read("validation", name="rte", path=str(glue / "RTE"))
    assert rte.class_names[rte.labels[0]] == "not_entailment" and rte.pairs[0] == "Christopher Reeve had an accident."
    stsb = read("validation", name="stsb", path=str(glue / "STS-B"))
    assert stsb.labels[:2].tolist() == [5.0, 4.75] and stsb.labels.dtype == np.float32
    assert Counter(read(name="sst2", path=str(glue / "SST-2")).labels.tolist()) == {1: 37569, 0: 29780}
    assert read(name="qqp", path=str(glue / "QQP_partial")).ids[:2] == ["133273", "360472"]


def test_squad_is_read_whole(squad):
    dev = read("validation", name="squad", path=str(squad))
    assert len(dev) == 10570 and len(set(dev.contexts)) == 2067 and min(map(len, dev.answers)) >= 1
    for context, answers in zip(dev.contexts, dev.answers, strict=True):
        assert all(context[one.start :].startswith(one.text) for one in answers)
    train = read(name="squad", path=str(squad), train=["squadshifts*.json", "train*.json"])
    assert len(train) == 17823 + 4370


# ---- every source says the same -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_formats_give_the_same_examples(tmp_path, kind):
    write_rows(tmp_path / f"train.{kind}", ROWS, kind)
    found = read(path=str(tmp_path))
    assert found.texts == [text for text, _ in ROWS] and found.ids == ["0", "1", "2"]
    assert found.class_names == ("neg", "pos") and found.labels.tolist() == [1, 0, 0] and found.pairs is None


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_text_is_read_and_damage_is_named(tmp_path, ending, pack):
    write_rows(tmp_path / "plain.csv", ROWS, "csv")
    packed = pack((tmp_path / "plain.csv").read_bytes())
    path = tmp_path / f"train.csv{ending}"
    path.write_bytes(packed)
    assert read(path=str(tmp_path)).texts == [text for text, _ in ROWS]
    path.write_bytes(packed[:-6])
    with pytest.raises(TaskError, match="truncated or damaged"):
        read(path=str(tmp_path))


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["a", "b"])), min_size=2, max_size=8))
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_any_text_comes_back_as_it_was_written(tmp_path, kind, rows):
    rows = [("x", "y", "a"), ("x", "y", "b"), *rows]
    columns = ("first", "second", "label")
    write_rows(tmp_path / f"train.{kind}", rows, kind, columns)
    found = read(path=str(tmp_path), text_column="first", pair_column="second")
    assert list(zip(found.texts, found.pairs, strict=True)) == [row[:2] for row in rows]
    assert [found.class_names[label] for label in found.labels] == [row[2] for row in rows]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT.map(lambda text: text.replace("\n", "").replace("\t", "")), min_size=1, max_size=8))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tabbed_files_are_taken_literally(tmp_path, end, texts):
    """Quotes, odd line separators and byte-order marks."""
    lines = ["sentence\tlabel", "x\t0", *(f"{text}\t1" for text in texts)]
    write(tmp_path, "\ufeff" + end.join(lines) + end)
    found = read(name="sst2", path=str(tmp_path))
    assert found.texts == ["x", *texts] and found.labels.tolist() == [0] + [1] * len(texts)


def test_a_dataset_says_what_the_original_files_say(tmp_path):
    """Other columns, ids for names and another order of columns; -1 where a test split has no label."""
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "idx": datasets.Value("int32"),
        }
    )
    columns = {"label": [1, 0], "sentence1": ["a", "b"], "sentence2": ["c", "d"], "idx": [7, 8]}
    train = datasets.Dataset.from_dict(columns, features=features)
    test = datasets.Dataset.from_dict({**columns, "label": [-1, -1]}, features=features)
    saved = tmp_path / "saved"
    datasets.DatasetDict(train=train, validation=train, test=test).save_to_disk(str(saved))
    tables = tmp_path / "tables"
    tables.mkdir()
    for name, one in (("train", train), ("validation", train), ("test", test)):
        one.to_parquet(str(tables / f"{name}-00000-of-00001.parquet"))
    original = tmp_path / "RTE"
    original.mkdir()
    rows = "index\tsentence1\tsentence2\tlabel\n7\ta\tc\tnot_entailment\n8\tb\td\tentailment\n"
    write(original, rows)
    expected = read(name="rte", path=str(original))
    assert expected.labels.tolist() == [1, 0] and expected.ids == ["7", "8"] and expected.pairs == ["c", "d"]
    for place in ({"path": str(tables)}, {"dataset": str(tables)}, {"dataset": str(saved)}):
        found = read(name="rte", **place)
        assert (found.ids, found.texts, found.pairs) == (expected.ids, expected.texts, expected.pairs)
        assert found.labels.tolist() == [1, 0]
        assert read("test", name="rte", **place).labels is None


def test_an_id_that_stands_for_no_label_is_refused_in_training(tmp_path):
    """-1 is not the last class."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=features)
    rows.to_parquet(str(tmp_path / "train.parquet"))
    for place in ({"path": str(tmp_path)}, {"dataset": str(tmp_path)}):
        with pytest.raises(TaskError, match="row 1, column label: expected a label, found null"):
            read(**place)


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


def test_numbers_as_columns_mean_files_without_header(tmp_path):
    write(tmp_path, "2,a title,the text\n1,b,c\n", "train.csv")
    found = read(path=str(tmp_path), text_column="1", pair_column="2", label_column="0")
    assert found.texts == ["a title", "b"] and found.pairs == ["the text", "c"] and found.labels.tolist() == [1, 0]


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


def test_broken_lines_of_one_published_file_are_counted(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(tmp_path, header + "1\t2\t3\ta\tb\t0\n4\t5\t6\tcut\nin two\t1\n7\t8\t9\tc\td\t1\n")
    found = read(name="qqp", path=str(tmp_path))
    assert found.ids == ["1", "7"] and found.dropped == 2


def test_words_come_as_lists_or_parted_by_spaces(tmp_path):
    write(tmp_path, '{"text": ["a", "b c"], "label": ["N", "V"]}\n', "train.jsonl")
    found = read(name="token_classification", path=str(tmp_path))
    assert found.words == [["a", "b c"]] and found.labels.tolist() == [0, 1] and found.class_names == ("N", "V")
    write(tmp_path, "text\tlabel\na  b\tV N\n", "other.tsv")
    found = read(name="token_classification", path=str(tmp_path), train=["other.tsv"])
    assert found.words == [["a", "b"]] and found.labels.tolist() == [1, 0]


# ---- what is wrong is named ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        (
            "sst2",
            "train.tsv",
            "sentence\tlabel\nx\t1\ny\n",
            r"train.tsv, line 3: 1 column, expected 2 \(sentence, label",
        ),
        (
            "cola",
            "train.tsv",
            "gj04\t1\t\tx\ngj04\t1\tx\n",
            r"line 2: 3 columns, expected 4 \(source, label, mark, sen",
        ),
        (
            "sst2",
            "train.tsv",
            "sentence\tgold\nx\t1\n",
            "line 2: no column 'label', there are sentence, gold; set task",
        ),
        (
            "mrpc",
            "train.tsv",
            "a\tb\nx\t1\n",
            "no column 'Quality' or 'label', there are a, b; set task.label_column",
        ),
        ("sst2", "train.tsv", "sentence\tlabel\nx\t1\ny\t2\n", "line 3: unknown label '2'; known: negative, positive"),
        ("sst2", "train.tsv", "sentence\tlabel\nx\t\n", 'line 2, column label: expected a label, found ""'),
        ("sst2", "train.tsv", "sentence\tlabel\n", "the train split has no examples"),
        ("sst2", "train.tsv", "", "the train split has no examples"),
        ("sst2", "train.csv", "sentence,label,label\nx,1,0\n", "line 1: 2 columns are called 'label'; rename all but"),
        ("sst2", "train.csv", 'sentence,label\n"x,1\n', "train.csv, line 2: not CSV"),
        ("sst2", "train.csv", "sentence,label\nx,y,1\n", "line 2: 3 columns, expected 2"),
        ("sst2", "train.jsonl", '{"sentence": "x", "label": 1}\n{"a"}\n', "line 2: not JSON .* at column 5"),
        ("sst2", "train.jsonl", "[1]\n", "line 1: expected a JSON object, found list"),
        ("sst2", "train.jsonl", '{"sentence": 3, "label": 1}\n', "line 1, column sentence: expected text, found 3"),
        ("sst2", "train.jsonl", '{"sentence": "x", "label": null}\n', "column label: expected a label, found null"),
        (
            "stsb",
            "train.csv",
            "sentence1,sentence2,score\na,b,high\n",
            'line 2.*expected a finite number, found "high"',
        ),
        ("stsb", "train.csv", "sentence1,sentence2,score\na,b,NaN\n", 'line 2.*expected a finite number, found "NaN"'),
        ("stsb", "train.jsonl", '{"sentence1":"a","sentence2":"b","score":true}\n', "finite number, found true"),
        ("text_classification", "train.csv", "text,label\nx,a\ny,a\n", "has one class only: a"),
        ("token_classification", "train.tsv", "text\tlabel\na b\tN\n", "line 2: 2 words and 1 labels"),
        ("token_classification", "train.jsonl", '{"text": [1], "label": [1]}\n', "expected a list of words"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, name, file, text, message):
    write(tmp_path, text, file)
    with pytest.raises(TaskError, match=message):
        read(name=name, path=str(tmp_path))


def test_a_label_that_training_has_not_seen_is_refused(tmp_path):
    write(tmp_path, "text,label\nx,a\ny,c\n", "dev.csv")
    value = config(path=str(tmp_path))
    with pytest.raises(TaskError, match="dev.csv, line 3: unknown label 'c'; known: a, b"):
        read_split(replace(task_for(value), labels=("a", "b")), value, "validation")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_another_encoding_is_named_with_its_place(tmp_path, kind):
    rows = [("plain " * 2000, "a"), ("caf\u00e9", "b"), ("x", "a")]
    write_rows(tmp_path / f"plain.{kind}", rows, "tsv" if kind == "tsv" else "csv")
    data = (tmp_path / f"plain.{kind}").read_text().encode("latin-1")
    (tmp_path / f"train.{kind}").write_bytes(data)
    place = data.index(0xE9)
    if kind != "jsonl":
        assert read(path=str(tmp_path), encoding="latin-1").texts[1] == "caf\u00e9"
    else:
        (tmp_path / "train.jsonl").write_bytes(data := b'{"text": "caf\xe9"}\n')
        place = data.index(0xE9)
    with pytest.raises(
        TaskError, match=rf"train.{kind}: not utf-8: byte 0xe9 at {place} .line \d.; set task.encoding=l"
    ):
        read(path=str(tmp_path))


def test_utf_16_is_recognised(tmp_path):
    write(tmp_path, "text,label\nx,a\ny,b\n", "train.csv", encoding="utf-16")
    with pytest.raises(TaskError, match="not utf-8: byte 0xff at 0 .line 1.; set task.encoding=utf-16"):
        read(path=str(tmp_path))
    assert read(path=str(tmp_path), encoding="utf-16").texts == ["x", "y"]


def test_more_rows_than_there_are_are_refused(tmp_path):
    write_rows(tmp_path / "train.csv", ROWS, "csv")
    with pytest.raises(TaskError, match="the train split has 3 examples, asked for 4; leave task.train_rows out"):
        read(path=str(tmp_path), train_rows=4)
    assert len(read(path=str(tmp_path), train_rows=2)) == 2


def test_an_unknown_dataset_is_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="task.dataset .*empty, split train: "):
        read(dataset=str(tmp_path / "empty"))


# ---- questions ----------------------------------------------------------------------------------------------------


def article(*questions, context="The cat sat."):
    qas = [{"id": f"q{number}", "question": "Who?", **one} for number, one in enumerate(questions)]
    return json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


CAT = {"answers": [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]}


def test_both_versions_and_the_hub_give_the_same_questions(tmp_path):
    impossible = {"answers": [], "is_impossible": True, "plausible_answers": [{"text": "cat", "answer_start": 4}]}
    write(tmp_path, article(CAT, impossible), "train-v2.0.json")
    files = read(name="squad_v2", path=str(tmp_path))
    assert files.ids == ["q0", "q1"] and files.questions == ["Who?"] * 2 and files.contexts == ["The cat sat."] * 2
    assert files.answers == [(("cat", 4), ("The cat", 0)), ()]
    answers = [{"text": ["cat", "The cat"], "answer_start": [4, 0]}, {"text": [], "answer_start": []}]
    rows = [(f"q{number}", "Who?", "The cat sat.", one) for number, one in enumerate(answers)]
    hub = tmp_path / "hub"
    hub.mkdir()
    write_rows(hub / "train-00000-of-00001.parquet", rows, "parquet", ("id", "question", "context", "answers"))
    for place in ({"path": str(hub)}, {"dataset": str(hub)}):
        found = read(name="squad_v2", **place)
        assert (found.ids, found.answers) == (files.ids, files.answers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            article({"answers": [{"text": "cat", "answer_start": 5}]}),
            'question q0: answer "cat" is not at character 5 .*"at "',
        ),
        (article({"answers": [{"text": "cat", "answer_start": -8}]}), "is not at character -8"),
        (article(CAT, {"answers": []}), "question q1: no answer; .* the task squad_v2"),
        (article({"answers": [{"text": "cat"}]}), "answers need text and answer_start"),
        (article({"id": None, **CAT}), "expected text in 'id', found null"),
        (article(CAT, {**CAT, "id": "q0"}), "the question's id q0 was there before"),
        ('{"data": [{"text": 1}]}', "not SQuAD's layout .*; expected data"),
        ('{"data": \n[', "train-v1.1.json, line 2: not JSON"),
        ('{"data": []}', "the train split has no examples"),
    ],
)
def test_bad_questions_are_refused(tmp_path, text, message):
    write(tmp_path, text, "train-v1.1.json")
    with pytest.raises(TaskError, match=message):
        read(name="squad", path=str(tmp_path))


def test_a_users_tsv_is_a_table_with_tabs(tmp_path):
    """A cell too many would move the label into the next column's place; quotes are those of whoever wrote it."""
    write(tmp_path, 'text\tlabel\n"a ""b""\tc"\tx\nd\ty\n', "train.tsv")
    assert read(path=str(tmp_path)).texts == ['a "b"\tc', "d"]
    write(tmp_path, "text\tlabel\na\tx\nthis is\tbad\ty\n", "train.tsv")
    with pytest.raises(TaskError, match="train.tsv, line 3: 3 columns, expected 2"):
        read(path=str(tmp_path))


def test_an_example_without_words_is_refused(tmp_path):
    """Batches of such rows would have no label to divide by."""
    lines = [{"words": ["a"], "tags": ["X"]}, {"words": [], "tags": []}, {"words": ["b"], "tags": ["Y"]}]
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "train.jsonl")
    config = TaskConfig(name="token_classification", path=str(tmp_path), text_column="words", label_column="tags")
    with pytest.raises(TaskError, match="line 2: no words; remove it"):
        read_split(task_for(config), config, "train")
