"""`launch/benchmark.py` as a user types it."""

import json

import pytest

from tests import processes
from tests.benchmark_models import write_models
from tests.commands import command, refused


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the commands are typed."""
    return write_models(tmp_path_factory.mktemp("project"), {"dense": ["onnx"], "sparse": ["onnx"]})


SMALL = ("--batch", "2", "--length", "8", "--rounds", "2")


@pytest.mark.slow
def test_models_on_runtimes_become_a_table_a_picture_and_figures(folders, tmp_path):
    """PERF-34: by real processes, threads and files. That zeros bring nothing is said by rounds that are known in
    tests/unit/benchmark/test_speed.py."""
    models = ["dense=dense/model", "dense=dense/onnx", "sparse/onnx"]
    wanted = ["benchmark.py", *models, "--dense", "dense", *SMALL, "--path", folders.data, "--rows", "9"]
    done = processes.script(*wanted, "--output", tmp_path / "out", cwd=folders.project)
    assert "batch 2, length 8, 1 thread: 2 rounds" in done.stderr and "accuracy" in done.stderr
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [(one["name"], one["runtime"]) for one in found["times"]] == [
        ("dense", "torch"),
        ("dense", "onnx"),
        ("sparse", "onnx"),
    ]
    assert all(one["speedup"]["stock"]["median"] > 0 and len(one["rounds_ms"]) == 2 for one in found["times"])
    assert all(one["memory_bytes"]["peak"] > 0 and "accuracy" in one["scores"] for one in found["models"])
    assert found["scored_on"] == "text_classification, validation: 9 examples"
    assert found["command"].startswith("python launch/benchmark.py dense=dense/model")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "whether 50.0% zeros bring speed cannot be told of 2 rounds" in table
    assert "| sparse | ONNX Runtime | fp32 | 17,408 | 50.0% | 50.0% |" in table and "x same runtime" in done.stdout
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    words = ["benchmark.json is there already", "--overwrite"]
    refused(folders.project, *wanted[1:], "--output", tmp_path / "out", script_name="benchmark.py", words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], ["gone: no such folder"]),
        (["dense/model", "case"], ["case is neither a run folder with model/ nor a model folder"]),
        (["dense/model", "--dense", "sparse"], ["--dense sparse is none of the models (dense)"]),
        (["dense/model", "--threads", "4096"], ["--threads 4096, and this process may use"]),
        (["dense/model", "--task", "squad", "--path", "case"], ["squad"]),
        (["dense/model", "--rows", "3"], ["which is no folder here", "--path"]),
    ],
)
def test_what_cannot_be_measured_is_one_line(folders, arguments, words):
    refused(folders.project, *arguments, script_name="benchmark.py", words=words)


def test_a_runtime_that_is_not_installed_is_said_with_the_command(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    words = ["onnxruntime", "pip install 'sparse-ofa[export]'"]
    refused(folders.project, "sparse/onnx", script_name="benchmark.py", words=words)


@pytest.mark.parametrize("options", [["--rounds", "1"], ["--batch", "0"], ["--seed", "-1"]])
def test_numbers_that_mean_nothing_are_usage_errors(folders, options):
    assert command("benchmark.py", "dense/model", *options, cwd=folders.project).status == 2
