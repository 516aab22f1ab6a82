"""What a sweep would run, before it does."""

from ofa.sweep.preview import commands, missing_lines, summary

VALUES = {
    "set": {"log.every": 7},
    "cells": [
        {"name": "dense", "set": {"pruning": None}},
        {"name": "sparse", "config": "tiny/imp_90.json", "set": {"model.init": "{dense}/model"}},
    ],
    "grid": {"seed": [1, 2]},
}


def test_a_line_a_run_says_what_it_does_not_share(planned, tmp_path):
    cells = list(planned(**VALUES).values())
    cells[0].folder.path.mkdir(parents=True)
    cells[0].folder.result.write_text("{}")
    head, common, *lines, last = summary(cells, tmp_path / "s").splitlines()
    assert head == f"4 runs of launch/pretrain.py in {tmp_path / 's'}" and common == "in common: log.every=7"
    init = f"model.init={tmp_path}/s/dense-seed"
    assert [line.split(maxsplit=1) for line in lines] == [
        ["dense-seed=1", "config=tiny/ofa_90.json pruning=null seed=1 (already done)"],
        ["dense-seed=2", "config=tiny/ofa_90.json pruning=null seed=2"],
        ["sparse-seed=1", f"config=tiny/imp_90.json {init}=1/model seed=1 (after dense-seed=1)"],
        ["sparse-seed=2", f"config=tiny/imp_90.json {init}=2/model seed=2 (after dense-seed=2)"],
    ]
    assert "-v" in last


def test_commands_are_those_that_are_started(planned):
    cells = list(planned(**VALUES).values())
    cells[0].folder.path.mkdir(parents=True)
    cells[0].folder.result.write_text("{}")
    first, *others = commands(cells).splitlines()
    assert first == "# dense-seed=1: already done"
    assert [line.split()[-2:] for line in others] == [["--run-dir", str(cell.folder.path)] for cell in cells[1:]]


def test_what_is_not_there_is_said_once_with_the_runs_that_need_it():
    missing = {"a is not there": ["x", "y", "z"], "b is not there": ["y"], "c is not there": ["x", "z"]}
    head, *lines = missing_lines(missing, 3)
    assert head.startswith("# not there yet")
    assert lines == [
        "# a is not there (needed by all)",
        "# b is not there (needed by y)",
        "# c is not there (needed by x and 1 more)",
    ]
    assert missing_lines({}, 3) == []


def test_all_is_in_common_where_there_is_one_run(planned, tmp_path):
    (cell,) = planned(grid={"seed": [1]}).values()
    assert summary([cell], tmp_path).splitlines()[:3] == [
        f"1 run of launch/pretrain.py in {tmp_path}",
        "in common: config=tiny/ofa_90.json seed=1",
        "seed=1",
    ]
