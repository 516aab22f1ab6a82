"""From what runs leave to rows, table and picture."""

import io
import json
from statistics import mean, stdev

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.sweep.figure import picture
from ofa.sweep.findings import show, write_findings
from ofa.sweep.rows import result_rows
from ofa.sweep.run import Outcome
from ofa.sweep.table import console_table, groups, mean_and_deviation

TASKS = [{"name": "mrpc", "set": {"data.path": "a"}}, {"name": "stsb", "set": {"data.path": "b"}}]
GRID = {"task": TASKS, "seed": [1, 2, 3]}

FINETUNED = {
    "name": "sparse-kd",
    "model": "runs/x/model",
    "task": "mrpc",
    "metrics": {"f1": 0.91, "accuracy": 0.88},
    "metric": "accuracy",
    "encoder_sparsity": 0.8,
    "scope_sparsity": 0.8,
    "model_sparsity": 0.3,
    "seed": 1,
    "device_hours": 0.1,
    "distilled": True,
    "versions": {"torch": "2.13.0"},
    "commit": None,
}


def finish(cell, result, line=None):
    """Leave what a finished run leaves."""
    cell.folder.path.mkdir(parents=True)
    cell.folder.result.write_text(json.dumps(result))
    if line is not None:
        (cell.folder.path / "results.jsonl").write_text("{}\n" + json.dumps(line) + "\n")


def rows_of(cells, values, metric="accuracy"):
    """Rows for cells by name."""
    return [
        {"cell": name, "metrics": {metric: value}, "metric": metric} for name, value in values.items() if name in cells
    ]


def test_a_pretraining_runs_own_row_is_its_last(planned):
    cells = planned(grid={"seed": [1, 2]})
    rows = [
        {"name": "floor", "validation_loss": 9.0},
        {"name": "sparse", "validation_loss": 5.0, "scope_sparsity": 0.9},
    ]
    finish(cells["seed=1"], {"rows": rows, "steps": 7})
    assert result_rows(list(cells.values())) == [
        {
            "cell": "seed=1",
            "kind": "",
            "at": {"seed": "1"},
            "name": "sparse",
            "steps": 7,
            "metric": None,
            "metrics": {"validation_loss": 5.0, "scope_sparsity": 0.9},
        }
    ]


def test_the_structure_of_a_pruned_run_has_columns_of_its_own(planned):
    cells = planned(grid={"structure.sparsity": [0.6]})
    numbers = {"heads_per_layer": 1.5, "dims_per_layer": 54.0, "attention_sublayers": 1, "ffn_sublayers": 2}
    finish(next(iter(cells.values())), {"rows": []}, {**FINETUNED, "structure": numbers})
    (row,) = result_rows(list(cells.values()))
    assert row["metrics"].items() >= numbers.items() and "structure" not in row


def test_a_finetuning_run_says_itself_what_its_metrics_are(planned):
    cells = planned(grid={"seed": [1]})
    finish(cells["seed=1"], {"rows": [{"name": "x", "loss": 1.0}]}, FINETUNED)
    (row,) = result_rows(list(cells.values()))
    sparsities = {"encoder_sparsity": 0.8, "scope_sparsity": 0.8, "model_sparsity": 0.3}
    assert row["metrics"] == FINETUNED["metrics"] | sparsities
    assert (row["metric"], row["device_hours"], row["versions"]) == ("accuracy", 0.1, {"torch": "2.13.0"})


@pytest.mark.parametrize(("result", "line"), [({"rows": []}, None), ({}, None), ({}, {"no": 1}), ({}, {"metrics": 3})])
def test_a_damaged_result_is_named(planned, result, line):
    cells = planned(grid={"seed": [1]})
    finish(cells["seed=1"], result, line)
    with pytest.raises(ValueError, match="seed=1/result.* is damaged"):
        result_rows(list(cells.values()))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_mean_and_sample_deviation(values):
    text = mean_and_deviation(values)
    assert [float(part) for part in text.split("\u00b1")] == pytest.approx([mean(values), stdev(values)], abs=6e-5)


def test_one_value_has_no_deviation_and_none_is_a_dash():
    assert (mean_and_deviation([0.5]), mean_and_deviation([])) == ("0.5000", "-")


def test_counts_are_whole_numbers():
    assert mean_and_deviation([4_245_504.0]) == "4,245,504"
    assert mean_and_deviation([10_000, 20_000, 30_000]) == "20,000 \u00b1 10,000"


def test_the_table_averages_over_seeds_and_shows_what_is_missing(build_sweep, planned):
    values = {"cells": [{"name": "dense"}, {"name": "sparse"}], "grid": GRID}
    cells = planned(**values)
    rows = rows_of(cells, {"dense-mrpc-seed=1": 0.8, "dense-mrpc-seed=2": 0.9, "dense-mrpc-seed=3": 1.0})
    rows += rows_of(cells, {"sparse-mrpc-seed=2": 0.7}) + rows_of(cells, {"dense-stsb-seed=1": 0.5}, "pearson")
    sweep = build_sweep(**values)
    lines = console_table(sweep, groups(sweep, list(cells.values()), rows)).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[2:6]] == ["dense", "dense", "sparse", "sparse"]
    assert [line.replace(" \u00b1 ", "+-").replace(" of ", "/").split() for line in [lines[0], *lines[2:6]]] == [
        ["cell", "task", "n", "accuracy", "pearson"],
        ["dense", "mrpc", "3", "0.9000+-0.1000", "-"],
        ["dense", "stsb", "1/3", "-", "0.5000"],
        ["sparse", "mrpc", "1/3", "0.7000", "-"],
        ["sparse", "stsb", "0/3", "-", "-"],
    ]


def test_a_cost_that_is_the_weights_has_no_column_of_its_own(build_sweep, planned):
    cells, sweep = planned(grid={"seed": [1, 2]}), build_sweep(grid={"seed": [1, 2]})
    for second, there in ((0.6, False), (0.7, True)):
        gone = [{"accuracy": 0.8, "structural_sparsity": 0.6, "cost_sparsity": cost} for cost in (0.6, second)]
        rows = [{"cell": name, "metrics": one} for name, one in zip(cells, gone, strict=True)]
        text = console_table(sweep, groups(sweep, list(cells.values()), rows))
        assert ("cost_sparsity" in text) == there and "structural_sparsity" in text


def test_other_keys_can_be_averaged_and_the_leading_metric_stands_first(build_sweep, planned):
    values = {"grid": GRID, "over": ["seed", "task"], "metric": "f1"}
    cells, sweep = planned(**values), build_sweep(**values)
    rows = [{"cell": name, "metrics": {"accuracy": 1.0, "f1": n / 10}} for n, name in enumerate(cells)]
    head, _, row = console_table(sweep, groups(sweep, list(cells.values()), rows)).splitlines()[:3]
    assert head.split() == ["n", "f1", "accuracy"]
    assert row.split() == ["6", "0.2500", "\u00b1", "0.1871", "1.0000", "\u00b1", "0.0000"]


def test_floors_stand_below_once_a_task_whatever_kinds_of_runs_name_them(build_sweep, planned):
    values = {"cells": [{"name": "dense"}, {"name": "sparse"}], "grid": {**GRID, "optimizer.lr": [1e-4, 1e-3]}}
    cells, sweep = planned(**values), build_sweep(**values)
    rows = rows_of(cells, {name: 0.9 for name in cells if "mrpc" in name})
    for number, row in enumerate(rows):
        floors = {"floor: one answer for all": 0.6, "floor: scope all zero": number % 2, "teacher": 0.95}
        row["references"] = {name: {"accuracy": value} for name, value in floors.items()}
    lines = console_table(sweep, groups(sweep, list(cells.values()), rows)).splitlines()
    floors = [line.replace(" \u00b1 ", "+-").split("  ") for line in lines if line.startswith("floor")]
    assert [[cell.strip() for cell in line if cell] for line in floors] == [
        ["floor: one answer for all", "mrpc", "-", "12", "0.6000+-0.0000"],
        ["floor: scope all zero", "mrpc", "-", "12", "0.5000+-0.5222"],
    ]
    assert not any(line.startswith("teacher") for line in lines)


def coloured(image, colour):
    """Pixels of about a colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return int((np.abs(image[:, :, :3] - wanted).max(axis=2) < 0.08).sum())


def test_the_picture_has_a_panel_a_task_and_grows_with_its_lines(build_sweep, planned):
    shapes = {}
    for kinds in (["a"], ["a", "b", "c"]):
        values = {"cells": [{"name": kind} for kind in kinds], "grid": GRID}
        cells, sweep = planned(**values), build_sweep(**values)
        rows = rows_of(cells, {name: 0.5 + number / 10 for number, name in enumerate(cells)})
        full = groups(sweep, list(cells.values()), rows)
        image = matplotlib.image.imread(io.BytesIO(picture(sweep, full)), format="png")
        empty = matplotlib.image.imread(
            io.BytesIO(picture(sweep, groups(sweep, list(cells.values()), []))), format="png"
        )
        shapes[len(kinds)] = image.shape
        assert coloured(image, "#d1495b") > coloured(empty, "#d1495b") + 300, "no deviation is drawn"
        assert picture(sweep, full) == picture(sweep, full)
    assert shapes[3][0] > shapes[1][0] and shapes[3][1] == shapes[1][1]
    assert shapes[1][1] > 1000, "panels of two tasks stand side by side"


def test_all_is_written_and_says_what_failed(build_sweep, planned, tmp_path):
    values = {"grid": {"seed": [1, 2, 3]}, "metric": "validation_los"}
    cells = planned(**values)
    finish(cells["seed=1"], {"rows": [{"name": "x", "validation_loss": 2.0}]})
    outcome = Outcome(done=["seed=1"], stopped=["seed=3"], failed={"seed=2": "status 1: no data"})
    write_findings(build_sweep(**values), list(cells.values()), tmp_path, outcome)
    assert [json.loads(line)["cell"] for line in (tmp_path / "results.jsonl").read_text().splitlines()] == ["seed=1"]
    table = (tmp_path / "table.md").read_text()
    assert "| n | validation_los | validation_loss |\n| --- | ---: | ---: |\n| 1 of 3 | - | 2.0000 |\n" in table
    assert "- no run has the metric validation_los; did you mean validation_loss?\n" in table
    assert "- seed=2 failed: status 1: no data\n- seed=3 is not finished: start the sweep again\n" in table
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_finished_run_there_is_no_picture_and_it_is_said_why(build_sweep, planned, tmp_path, capsys):
    """An old one would be of runs that are gone."""
    values = {"grid": {"seed": [1, 2]}}
    cells, outcome = list(planned(**values).values()), Outcome(stopped=["seed=1", "seed=2"])
    (tmp_path / "sweep.png").write_bytes(b"of runs that were removed")
    write_findings(build_sweep(**values), cells, tmp_path, outcome)
    assert not (tmp_path / "sweep.png").exists()
    show(build_sweep(**values), cells, tmp_path, outcome)
    said = [str(tmp_path / "results.jsonl"), str(tmp_path / "table.md"), "no sweep.png: no run is finished"]
    assert capsys.readouterr().out.splitlines()[-3:] == said


def test_what_rows_do_not_share_is_said(build_sweep, planned, tmp_path):
    """A difference between two rows may be that of code, packages or machines."""
    values = {"grid": {"seed": [1, 2, 3]}}
    cells = planned(**values)
    for number, cell in enumerate(cells.values()):
        packages = {"torch": "2.13.0" if number else "2.12.1", "numpy": "2.4.6"}
        more = {"commit": "abcdef0123456" if number else None, "versions": packages, "hardware": {"device": "x"}}
        finish(cell, {}, {**FINETUNED, **more})
    write_findings(build_sweep(**values), list(cells.values()), tmp_path, Outcome(done=list(cells)))
    assert (
        (tmp_path / "table.md")
        .read_text()
        .endswith("\n- rows are of 2 sets of versions: 2 of torch 2.13.0, 1 of torch 2.12.1\n")
    )
