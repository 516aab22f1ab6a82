"""Files of rows through a model: every kind of file gives the same, in order, with own ids, whole or absent."""

import gzip
import json
import os

import pytest

from ofa.data.tasks import TaskError
from ofa.inference import load
from ofa.predict_file import Done, Input, check_places, predict_file
from ofa.predictor import InferenceError
from tests.inference_cases import CASES, ROWS, write_case
from tests.task_tables import write_rows


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(case, its predictor) by name; made once."""
    made = {}

    def get(name):
        if name not in made:
            one = write_case(tmp_path_factory.mktemp("cases"), name)
            made[name] = one, load(one.model)
        return made[name]

    return get


def predicted(predictor, given, folder, **options):
    """The lines of the output, and how far each part came."""
    output = folder / "out.jsonl"
    parts = list(predict_file(predictor, given, output, **options))
    assert not (folder / ".writing-out.jsonl").exists()
    return [json.loads(line) for line in output.read_text().splitlines()], parts


@pytest.mark.parametrize("name", CASES)
def test_the_file_of_a_split_needs_no_columns_and_keeps_its_ids(case, name, tmp_path):
    """Bit for bit what the call says, and so what evaluation has written."""
    one, predictor = case(name)
    found, parts = predicted(predictor, Input(one.data), tmp_path)
    assert [line.pop("id") for line in found] == one.ids
    assert found == predictor(one.texts, one.pairs)
    assert [part.rows for part in parts] == [ROWS] and parts[0].cut > 0


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt", "csv.gz"])
def test_every_kind_of_file_gives_the_same(case, kind, tmp_path):
    one, predictor = case("single")
    texts = [" ".join(text.split()) for text in one.texts] + ["a plain one"]  # no line breaks in a text a line
    path = tmp_path / f"rows.{kind}"
    if kind == "txt":
        path.write_text("".join(text + "\n" for text in texts))
    elif kind == "csv.gz":
        write_rows(tmp_path / "rows.csv", [(text,) for text in texts], "csv", ["body"])
        path.write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    else:
        write_rows(path, [(text,) for text in texts], kind, ["body"])
    found, _ = predicted(predictor, Input(path, text_column=None if kind == "txt" else "body"), tmp_path)
    assert [line.pop("id") for line in found] == list(range(len(texts)))
    assert found == predictor(texts)


def test_parts_are_joined_in_order_with_one_numbering(case, tmp_path):
    """More rows than a part has, which are sorted by length within each."""
    one, predictor = case("single")
    texts = (one.texts * 3)[:70]
    write_rows(tmp_path / "rows.jsonl", [(text,) for text in texts], "jsonl", ["review"])
    found, parts = predicted(predictor, Input(tmp_path / "rows.jsonl"), tmp_path, batch_size=1)
    assert [part.rows for part in parts] == [32, 64, 70]
    assert [line.pop("id") for line in found] == list(range(70))
    assert found == predictor(texts, batch_size=1)


def test_empty_lines_of_text_keep_their_places(case, tmp_path):
    _, predictor = case("single")
    (tmp_path / "rows.txt").write_text("a cat\n\nthe dog")
    found, _ = predicted(predictor, Input(tmp_path / "rows.txt"), tmp_path)
    assert [line["id"] for line in found] == [0, 1, 2] and found[1]["label"] == predictor("")["label"]


@pytest.mark.parametrize(
    ("rows", "given", "expected"),
    [
        ([{"id": 3, "review": "a"}, {"id": 3, "review": "b"}], None, [3, 3]),
        ([{"id": "x", "idx": 9, "review": "a"}], None, [9]),
        ([{"id": "x", "idx": 9, "review": "a"}], "id", ["x"]),
        ([{"meta": {"key": 1.5}, "review": "a"}], "meta.key", ["1.5"]),
        ([{"id": None, "review": "a"}], None, [None]),
    ],
)
def test_ids_are_the_users_own(case, rows, given, expected, tmp_path):
    _, predictor = case("single")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = predicted(predictor, Input(tmp_path / "rows.jsonl", id_column=given), tmp_path)
    assert [line["id"] for line in found] == expected


@pytest.mark.parametrize("name", ["pairs", "questions"])
def test_second_texts_and_contexts_have_a_column(case, name, tmp_path):
    one, predictor = case(name)
    rows = list(zip(one.texts, one.pairs, strict=True))
    write_rows(tmp_path / "rows.csv", rows, "csv", ["one", "two"])
    given = Input(tmp_path / "rows.csv", text_column="one", pair_column="two")
    found, _ = predicted(predictor, given, tmp_path)
    assert [line.pop("id") for line in found] == list(range(ROWS)) and found == predictor(one.texts, one.pairs)


def test_questions_may_be_asked_with_another_threshold(case, tmp_path):
    one, predictor = case("questions")
    found, _ = predicted(predictor, Input(one.data), tmp_path, null_threshold=-1e9)
    assert {line["answer"] for line in found} == {""}


def test_what_the_reader_of_a_stream_gets_comes_part_by_part(case, tmp_path, capsys):
    _, predictor = case("single")
    (tmp_path / "rows.txt").write_text("cat\n" * 40)
    parts = predict_file(predictor, Input(tmp_path / "rows.txt"), None, batch_size=1)
    assert next(parts) == Done(32, 0) and len(capsys.readouterr().out.splitlines()) == 32


# ---- whole or absent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "old\n"])
def test_an_error_in_the_middle_leaves_what_was_there(case, tmp_path, before):
    _, predictor = case("single")
    (tmp_path / "rows.jsonl").write_text('{"review": "a"}\n' * 40 + "no JSON\n")
    output = tmp_path / "out.jsonl"
    if before:
        output.write_text(before)
    parts = predict_file(predictor, Input(tmp_path / "rows.jsonl"), output, batch_size=1)
    next(parts)
    assert (tmp_path / ".writing-out.jsonl").stat().st_size > 0
    with pytest.raises(TaskError, match="rows.jsonl, line 41: not JSON"):
        list(parts)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "rows.jsonl"][0 if before else 1 :]
    assert not before or output.read_text() == before


def test_nobody_who_stops_half_way_leaves_a_trace(case, tmp_path):
    _, predictor = case("single")
    (tmp_path / "rows.txt").write_text("cat\n" * 40)
    parts = predict_file(predictor, Input(tmp_path / "rows.txt"), tmp_path / "out.jsonl", batch_size=1)
    next(parts)
    parts.close()
    assert os.listdir(tmp_path) == ["rows.txt"]


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "options", "error", "words"),
    [
        (
            "rows.csv",
            "id,body\n1,a\n",
            {},
            TaskError,
            "line 2: no column 'review', there are id, body; set --text",
        ),
        ("rows.csv", "id,review\n1\n", {}, TaskError, "line 2: 1 column, expected 2"),
        ("rows.csv", "id,review\n", {}, InferenceError, "rows.csv has no rows"),
        ("rows.txt", "", {}, InferenceError, "rows.txt has no rows"),
        ("rows.jsonl", '{"review": null}\n', {}, TaskError, "line 1, column review: expected text, found null"),
        ("rows.jsonl", '{"review": "a"}\n', {"id_column": "key"}, TaskError, "no column 'key'.*set --id-column"),
        ("rows.txt", "a\n", {"text_column": "x"}, InferenceError, "a text a line has no columns"),
        ("rows.csv", "review,b\na,b\n", {"pair_column": "b"}, InferenceError, "reads one text for each example"),
        ("rows.txt", "\xe9\n", {"encoding": "ascii"}, TaskError, "rows.txt: not ascii: byte 0xc3 at 0 .line 1."),
        ("rows.parquet", "none", {}, TaskError, "not a readable parquet file"),
        ("rows.csv.gz", "none", {}, TaskError, "truncated or damaged"),
    ],
)
def test_files_that_cannot_be_read_are_refused(case, tmp_path, name, text, options, error, words):
    _, predictor = case("single")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(error, match=words):
        list(predict_file(predictor, Input(tmp_path / name, **options), tmp_path / "out.jsonl"))
    assert os.listdir(tmp_path) == [name]


def test_one_text_a_line_is_too_little_for_pairs(case, tmp_path):
    _, predictor = case("pairs")
    (tmp_path / "rows.txt").write_text("a\n")
    with pytest.raises(InferenceError, match="reads two texts for each example, found one text alone"):
        list(predict_file(predictor, Input(tmp_path / "rows.txt"), None))


@pytest.mark.parametrize(
    ("path", "kind", "output", "words"),
    [
        ("gone.csv", None, None, "gone.csv: no such file"),
        ("rows.xlsx", None, None, "rows.xlsx: expected a file ending in txt, csv, tsv, jsonl"),
        (None, "parquet", None, "parquet cannot be read from a stream"),
        ("rows.xlsx", "csv", "there.jsonl", "is there already: give another --output, or --overwrite"),
        ("rows.xlsx", "csv", ".", "is a folder"),
        ("rows.xlsx", "csv", "none/out.jsonl", "a folder that is not there"),
    ],
)
def test_places_are_checked_before_a_model_is_loaded(tmp_path, path, kind, output, words):
    for name in ("rows.xlsx", "there.jsonl"):
        (tmp_path / name).write_text("")
    given = Input(path and tmp_path / path, kind)
    with pytest.raises(InferenceError, match=words):
        check_places(given, output and tmp_path / output, overwrite=False)


def test_an_output_is_replaced_where_that_is_said(tmp_path):
    (tmp_path / "out.jsonl").write_text("")
    check_places(Input(None), tmp_path / "out.jsonl", overwrite=True)
