"""The points of an array, looked at side by side before any is queued."""

import json
import os
import sys
from pathlib import Path

import pytest

from ofa.cluster.check import check_all, for_each
from ofa.cluster.command import ScriptCall, expanded, read_call
from ofa.slurm.errors import SubmitError


def array(*each):
    """Its calls."""
    return expanded(read_call(["pretrain", "--config", "mine.json"]), each)


def test_all_points_that_would_not_start_are_named_with_their_mistakes(place):
    with pytest.raises(SubmitError) as caught:
        check_all(array("optimizer.lr=1e-4,-1", "model.init=null,runs/none/model"), [1])
    missing, bad = str(caught.value).split("; pretrain:")
    assert missing.startswith("pretrain:mine-optimizer.lr=1e-4-model.init=runs_none_model: ")
    both = ("mine-optimizer.lr=-1-model.init=null", "pretrain:mine-optimizer.lr=-1-model.init=runs_none_model")
    assert bad.startswith(f"{', '.join(both)}: ")
    assert "model folder runs/none/model not found" in missing and "optimizer.lr: Input should be greater" in bad


def test_data_preparation_may_take_what_an_earlier_job_makes(place):
    """And nothing else that is not there."""
    source = {"kind": "text", "paths": ["runs/predicted/*.jsonl"]}
    (place / "prep.json").write_text(json.dumps({"source": source, "tokenizer": {"init": "runs/predicted/tokenizer"}}))
    call = read_call(["data_prep", "--config", "prep.json", "--output", "out"])
    assert check_all([call], [1], [Path("runs", "predicted")]) == [Path("out")]
    for made in ([], [Path("runs", "other")]):
        with pytest.raises(SubmitError, match=r"there is no runs/predicted/\*\.jsonl"):
            check_all([call], [1], made)
    with pytest.raises(SubmitError, match="there is no nowhere"):
        paths = '["runs/predicted/*.jsonl", "nowhere"]'
        both = read_call(["data_prep", "--config", "prep.json", "--set", f"source.paths={paths}"])
        check_all([both], [1], [Path("runs", "predicted")])


def test_one_mistake_of_many_points_is_said_once():
    calls = [ScriptCall("pretrain", None, Path(f"runs/{number}"), ()) for number in range(8)]

    def look(call):
        raise SubmitError(f"{call.name}: optimizer.lr: found -1")

    with pytest.raises(SubmitError) as caught:
        for_each(calls, look)
    names = ", ".join(f"pretrain:{number}" for number in range(5))
    assert str(caught.value) == f"{names} and 3 more: optimizer.lr: found -1"


def test_of_many_mistakes_the_first_are_said_and_the_others_counted():
    calls = [ScriptCall("pretrain", None, Path(f"runs/{number}"), ()) for number in range(5)]

    def look(call):
        if call.run_dir.name != "1":
            raise SubmitError(f"run folder {call.run_dir} is in use")
        return call

    with pytest.raises(SubmitError) as caught:
        for_each(calls, look)
    said = "; ".join(f"run folder runs/{number} is in use" for number in (0, 2, 3))
    assert str(caught.value) == f"{said}; and 1 more"
    assert for_each(calls[1:2], look) == calls[1:2]


def test_as_many_are_looked_at_side_by_side_as_there_are_cores(place, monkeypatch):
    """By a Python that notes when it begins and ends."""
    python = place / "python"
    python.write_text("#!/bin/sh\necho begins >> log\nsleep 0.3\necho ends >> log\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    check_all(array("seed=1,2,3,4", "optimizer.lr=1,2"), [1, 2])
    running, most = 0, 0
    for line in (place / "log").read_text().split():
        running += 1 if line == "begins" else -1
        most = max(most, running)
    assert running == 0 and most == min(16, len(os.sched_getaffinity(0)))
