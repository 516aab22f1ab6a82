"""Files of predictions, read back as other tools read them."""

import csv
import json

import numpy as np
import pytest

from ofa.downstream.answers import Answers, Candidate
from ofa.downstream.predictions import (
    GLUE_FILES,
    PredictionsError,
    write_classes,
    write_glue,
    write_squad,
    write_values,
)


def read_tsv(path):
    """Rows as the csv module sees them."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def predictions(path):
    """The column `prediction`."""
    rows = read_tsv(path)
    assert [row["index"] for row in rows] == [str(number) for number in range(len(rows))]
    return [row["prediction"] for row in rows]


def test_the_files_are_those_of_the_server():
    expected = {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI"}
    assert set(GLUE_FILES) == expected


@pytest.mark.parametrize(
    ("file", "names", "expected"),
    [
        ("CoLA", ("unacceptable", "acceptable"), ["1", "0", "1"]),
        ("SST-2", ("negative", "positive"), ["1", "0", "1"]),
        ("SST-2", ("positive", "negative"), ["0", "1", "0"]),
        ("MRPC", ("not_equivalent", "equivalent"), ["1", "0", "1"]),
        ("QQP", ("0", "1"), ["1", "0", "1"]),
        ("QQP", ("1", "0"), ["0", "1", "0"]),
        ("WNLI", ("not_entailment", "entailment"), ["1", "0", "1"]),
        ("QNLI", ("entailment", "not_entailment"), ["not_entailment", "entailment", "not_entailment"]),
        ("RTE", ("not_entailment", "entailment"), ["entailment", "not_entailment", "entailment"]),
        ("MNLI-m", ("entailment", "neutral", "contradiction"), ["neutral", "entailment", "neutral"]),
        ("MNLI-mm", ("contradiction", "entailment", "neutral"), ["entailment", "contradiction", "entailment"]),
    ],
)
def test_glue_files_hold_the_servers_words(tmp_path, file, names, expected):
    path = write_glue(tmp_path, file, np.array([1, 0, 1]), names)
    assert path == tmp_path / f"{file}.tsv" and predictions(path) == expected
    assert path.read_text().startswith("index\tprediction\n0\t") and path.read_text().endswith("\n")


def test_similarities_have_three_decimals_within_0_and_5(tmp_path):
    values = np.array([-0.3, -0.0, 2.5, 3.14159, 4.9999, 5.7], dtype=np.float32)
    expected = ["0.000", "0.000", "2.500", "3.142", "5.000", "5.000"]
    assert predictions(write_glue(tmp_path, "STS-B", values)) == expected


@pytest.mark.parametrize(
    ("file", "values", "names", "message"),
    [
        ("MNLI", [0], (), "knows no file 'MNLI': known are CoLA"),
        ("RTE", [], ("entailment", "not_entailment"), "RTE.tsv: predictions of shape \\[0\\]"),
        ("RTE", [0], ("0", "1"), "RTE.tsv: classes \\['0', '1'\\] are not the server's"),
        ("SST-2", [0], ("negative", "0"), "are not the server's \\['0', '1'\\]"),
        ("SST-2", [0], ("negative",), "are not the server's"),
        ("MNLI-m", [0], ("entailment", "neutral"), "are not the server's"),
        ("SST-2", [2], ("negative", "positive"), "from 2 to 2 .*expected whole numbers from 0 to 1"),
        ("SST-2", [-1], ("negative", "positive"), "from -1 to -1"),
        ("SST-2", [0.5], ("negative", "positive"), "float64"),
        ("STS-B", [1.0, np.nan], (), "STS-B.tsv: the value of row 1 is nan"),
    ],
)
def test_what_the_server_would_refuse_is_refused_and_nothing_is_written(tmp_path, file, values, names, message):
    with pytest.raises(PredictionsError, match=message):
        write_glue(tmp_path, file, np.array(values), names)
    assert list(tmp_path.iterdir()) == []


def make_answers(null_odds):
    """Two questions, one with a text that JSON must escape."""
    text = 'a "quoted"\n\u201cText\u201d'
    best = {"q1": [Candidate(text, 3.5, 0.75, 4, 20), Candidate("", 2.4, 0.25, -1, -1)], "q2": []}
    return Answers({"q1": text, "q2": ""}, best, null_odds)


def test_squad_files_read_back(tmp_path):
    answers = make_answers({"q1": -1.1, "q2": 0.5})
    paths = write_squad(tmp_path, answers)
    assert [path.name for path in paths] == ["predictions.json", "nbest_predictions.json", "null_odds.json"]
    given, best, odds = (json.loads(path.read_bytes()) for path in paths)
    assert given == answers.predictions and odds == answers.null_odds
    first = {"text": answers.predictions["q1"], "score": 3.5, "probability": 0.75, "start": 4, "end": 20}
    assert best["q1"][0] == first and [one["text"] for one in best["q1"]] == [answers.predictions["q1"], ""]


def test_where_every_question_has_an_answer_no_odds_are_written(tmp_path):
    write_squad(tmp_path, make_answers(None))
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.json", "nbest_predictions.json"}


def read_lines(path):
    """A .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_classes_read_back_with_their_probabilities(tmp_path):
    path, shares = tmp_path / "predictions.jsonl", np.array([[0.25, 0.75], [0.5, 0.5]])
    write_classes(path, ids=["7", "a\nb"], probabilities=list(shares), names=("no", "yes"))
    assert read_lines(path) == [
        {"id": "7", "label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}},
        {"id": "a\nb", "label": "no", "probabilities": {"no": 0.5, "yes": 0.5}},
    ]


def test_words_have_lists(tmp_path):
    path = tmp_path / "predictions.jsonl"
    words = [[np.array([1.0, 0.0]), None, np.array([0.25, 0.75])], []]
    write_classes(path, ids=["1", "2"], probabilities=words, names=("O", "B"))
    first, empty = read_lines(path)
    assert first["label"] == ["O", None, "B"]
    assert first["probabilities"][1:] == [None, {"O": 0.25, "B": 0.75}]
    assert empty == {"id": "2", "label": [], "probabilities": []}


def test_values_read_back(tmp_path):
    write_values(tmp_path / "predictions.jsonl", ids=["1", "2"], values=np.array([0.5, -3.25], dtype=np.float32))
    assert read_lines(tmp_path / "predictions.jsonl") == [{"id": "1", "label": 0.5}, {"id": "2", "label": -3.25}]


def test_counts_and_numbers_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(PredictionsError, match="1 predictions for 2 ids"):
        write_classes(path, ids=["1", "2"], probabilities=[np.array([0.5, 0.5])], names=("no", "yes"))
    with pytest.raises(PredictionsError, match="example 1 has 3 classes, expected a share for each of 2: no, yes"):
        write_classes(path, ids=["1"], probabilities=[np.zeros(3)], names=("no", "yes"))
    with pytest.raises(PredictionsError, match="a share that is not finite"):
        write_classes(path, ids=["1"], probabilities=[np.array([np.nan, 0.5])], names=("no", "yes"))
    with pytest.raises(PredictionsError, match="1 predictions for 0 ids"):
        write_values(path, ids=[], values=np.zeros(1))
    with pytest.raises(PredictionsError, match="the value of row 0 is inf"):
        write_values(path, ids=["1"], values=np.array([np.inf]))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole(tmp_path):
    for values in (np.arange(9) / 2, np.array([1.0])):
        path = write_glue(tmp_path, "STS-B", values)
    assert predictions(path) == ["1.000"] and list(tmp_path.iterdir()) == [path]
