"""Examples from files: the same from every format, and errors that name file and line."""

import gzip
import lzma
from collections import Counter

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofa.data.tasks import TaskError
from tests.task_tables import ROWS, read, write, write_rows


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


def test_a_users_tsv_is_a_table_with_tabs(tmp_path):
    """A cell too many would move the label into the next column's place; quotes are those of whoever wrote it."""
    write(tmp_path, 'text\tlabel\n"a ""b""\tc"\tx\nd\ty\n', "train.tsv")
    assert read(path=str(tmp_path)).texts == ['a "b"\tc', "d"]
    write(tmp_path, "text\tlabel\na\tx\nthis is\tbad\ty\n", "train.tsv")
    with pytest.raises(TaskError, match="train.tsv, line 3: 3 columns, expected 2"):
        read(path=str(tmp_path))


def test_numbers_as_columns_mean_files_without_header(tmp_path):
    write(tmp_path, "2,a title,the text\n1,b,c\n", "train.csv")
    found = read(path=str(tmp_path), text_column="1", pair_column="2", label_column="0")
    assert found.texts == ["a title", "b"] and found.pairs == ["the text", "c"] and found.labels.tolist() == [1, 0]


def test_broken_lines_of_one_published_file_are_counted(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(tmp_path, header + "1\t2\t3\ta\tb\t0\n4\t5\t6\tcut\nin two\t1\n7\t8\t9\tc\td\t1\n")
    found = read(name="qqp", path=str(tmp_path))
    assert found.ids == ["1", "7"] and found.dropped == 2


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
