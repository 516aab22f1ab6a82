"""benchmarks/made_by.py is the one place that says what a figure was made by."""

import re
import sys

import pytest

from benchmarks import made_by
from ofa import run_folder
from tests.processes import CHECKOUT

BENCHMARKS = sorted((CHECKOUT / "benchmarks").glob("*.py"))


def test_command_commit_versions_and_hardware_are_those_of_a_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/benchmarks/one.py", "--json", "a"])
    found = made_by.made_by()
    assert found == {"command": "python benchmarks/one.py --json a", **run_folder.surroundings()}
    assert found["versions"].keys() >= {"python", "torch", "deepspeed", "transformers"}
    other = made_by.made_by(threads=found["hardware"]["threads"] + 1)
    assert other["hardware"] == {**found["hardware"], "threads": found["hardware"]["threads"] + 1}
    assert made_by.in_words({"hardware": {"device": "X", "threads": 1}, "versions": {"a": "1", "b": "2"}}) == (
        "X, 1 thread; a 1, b 2"
    )
    assert "X, 3 threads" in made_by.in_words({"hardware": {"device": "X", "threads": 3}, "versions": {}})


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_no_benchmark_collects_them_by_itself(path):
    if path.stem != "made_by":
        assert not re.search(r"(?<!\.)\b(commit|versions|surroundings)\(\)", path.read_text())
