"""`launch/predict.py` as a user types it."""

import json
import subprocess
import sys

import pytest

from tests import processes
from tests.commands import command, refused
from tests.inference_cases import ROWS, evaluated, write_case
from tests.processes import CHECKOUT


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Cases by name."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = write_case(tmp_path_factory.mktemp("project"), name)
        return made[name]

    return get


def project(one):
    """Where the commands are typed."""
    return one.model.parent


def test_a_file_goes_through_as_it_was_evaluated_and_again_only_when_told(case, tmp_path):
    """In processes of its own: from evaluate's predictions to predict's, the same lines."""
    one = case("single")
    wanted = ("predict.py", "model", "--input", one.data, "--output", tmp_path / "out.jsonl", "--threads", "1")
    done = processes.script(*wanted, cwd=project(one))
    assert f"{ROWS} rows in " in done.stderr and "rows/s with torch" in done.stderr and not done.stdout
    assert "texts cut at 24 tokens" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.pop("id") for line in lines] == one.ids
    assert lines == evaluated(one, tmp_path / "predictions")
    (tmp_path / "out.jsonl").write_text("mine")
    refused(project(one), *wanted[1:], script_name="predict.py", words=["is there already", "--overwrite"])
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    again = command(*wanted, "--overwrite", cwd=project(one))
    assert again.status == 0 and len((tmp_path / "out.jsonl").read_text().splitlines()) == ROWS


def test_the_standard_input_goes_to_the_standard_output(case):
    one = case("single")
    rows = "".join(json.dumps({"key": n, "body": text}) + "\n" for n, text in enumerate(one.texts))
    options = ["--input", "-", "--format", "jsonl", "--text-column", "body", "--id-column", "key"]
    found = subprocess.run(
        [sys.executable, str(CHECKOUT / "launch" / "predict.py"), "model", *options],
        input=rows,
        capture_output=True,
        text=True,
        cwd=project(one),
        env=processes.environment(),
    )
    assert found.returncode == 0, found.stderr
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == list(range(ROWS))


def test_one_text_is_answered_on_the_standard_output(case):
    one = case("questions")
    answer = command("predict.py", "model", "--text", one.texts[0], "--pair", one.pairs[0], cwd=project(one))
    assert answer.status == 0 and json.loads(answer.out).keys() >= {"answer", "probability", "null_odds", "n_best"}


@pytest.mark.parametrize(
    ("name", "options", "words", "status"),
    [
        ("single", ["--text", "a", "--pair", "b"], ["reads one text for each example"], 1),
        ("single", ["--text", "a", "--null-threshold", "0"], ["null_threshold is for questions"], 1),
        ("single", ["--text", "a", "--runtime", "onnx"], ["was not exported to ONNX Runtime", "launch/export.py"], 1),
        ("single", ["--input", "gone.csv"], ["gone.csv: no such file"], 1),
        ("pairs", ["--text", "a"], ["reads two texts for each example", "give the second too: --pair"], 1),
    ],
)
def test_what_does_not_fit_is_one_line(case, name, options, words, status):
    refused(project(case(name)), "model", *options, script_name="predict.py", words=words, status=status)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either --text or --input"),
        (["--text", "a", "--input", "b"], "give either --text or --input"),
        (["--input", "a", "--pair", "b"], "--pair goes with --text"),
        (["--text", "a", "--output", "b"], "--output is for --input"),
        (["--text", "a", "--text-column", "b"], "--text-column is for --input"),
    ],
)
def test_options_that_contradict_are_usage_errors(case, options, words):
    answer = command("predict.py", "model", *options, cwd=project(case("single")))
    assert answer.status == 2 and words in answer.err


def test_a_folder_that_is_no_model_is_one_line(tmp_path):
    refused(tmp_path, "./gone", "--text", "a", script_name="predict.py", words=["gone: no such folder"])
