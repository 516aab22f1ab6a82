"""Rows of results.jsonl: complete, and honest about what a number has cost."""

import json

import numpy as np
import pytest

from ofa.config import CofiConfig, FinetuneConfig
from ofa.data.tasks import TASKS
from ofa.downstream.evaluation import Scored
from ofa.downstream.results import HOURS, append_row, device_hours_of, result_row, table_row, write_row
from tests.task_parts import small_model

ZEROS = {"encoder_sparsity": 0.9, "scope_sparsity": 0.9, "model_sparsity": 0.3}
RESULT = {
    "rows": [
        {"name": "teacher", "validation_loss": 0.2, "accuracy": 0.95, **dict.fromkeys(ZEROS, 0.0)},
        {"name": "floor: one answer for all", "validation_loss": 0.7, "accuracy": 0.51},
        {"name": "fine-tuned model", "validation_loss": 0.3, "accuracy": 0.91, **ZEROS},
    ],
    "steps": 60,
    "best_step": 40,
    "fingerprint": "ab",
    "init_fingerprint": "cd",
    "seconds": 12.5,
    "device_hours": 0.0035,
    "device_hours_with_parents": 0.0035,
    "parents_without_hours": ["models/minilm"],
}
FIELDS = {
    *("name", "model", "task", "metric", "metrics", "references", "seed", "steps", "best_step", "lock", "fingerprint"),
    *("init_fingerprint", "distilled", "teacher", *HOURS),
    *("versions", "commit", "hardware", *ZEROS),
}


def config_of(init="base/model", teacher=None, **values):
    return FinetuneConfig.model_validate(
        {
            "model": {"init": str(init)},
            "teacher": teacher and {"init": str(teacher)},
            "task": {"name": "sst2"},
            "batch": {"global_size": 8, "micro_size": 8},
            "optimizer": {"lr": 1e-4},
            **values,
        }
    )


@pytest.mark.parametrize("teacher", [None, "task_teacher/model"])
def test_a_row_has_all_that_a_reader_needs(tmp_path, teacher):
    """OFA-40: seeds, hours, distillation on or off; the last row is the run's own, the others are references."""
    row = result_row(config_of(teacher=teacher, seed=3), "downstream/sst2", RESULT, TASKS["sst2"])
    assert set(row) == FIELDS
    assert (row["task"], row["metric"], row["seed"], row["best_step"]) == ("sst2", "accuracy", 3, 40)
    assert row["metrics"] == {"validation_loss": 0.3, "accuracy": 0.91} and row["scope_sparsity"] == 0.9
    assert row["references"]["teacher"] == {"validation_loss": 0.2, "accuracy": 0.95}
    assert list(row["references"]) == ["teacher", "floor: one answer for all"]
    assert (row["distilled"], row["teacher"]) == (teacher is not None, teacher)
    write_row(tmp_path, row)
    write_row(tmp_path, row)
    assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == [row]


def test_a_teacher_without_weight_is_no_distillation():
    config = config_of(teacher="x/model", objective={"ce_weight": 1.0, "kd_weight": 0.0})
    assert result_row(config, "n", RESULT, TASKS["sst2"])["distilled"] is False


def cofi_config(**values):
    given = config_of(teacher="x/model").model_dump(exclude={"pruning", "objective", "schedule"})
    return CofiConfig.model_validate({**given, "structure": {"sparsity": 0.9}, **values})


@pytest.mark.parametrize("layer_weight", [0.0, 0.5])
def test_layers_of_a_teacher_are_distilled_too(layer_weight):
    objective = {"ce_weight": 1.0, "kd_weight": 0.0, "layer_weight": layer_weight}
    assert result_row(cofi_config(objective=objective), "n", RESULT, TASKS["sst2"])["distilled"] is (layer_weight > 0)


def test_a_structure_stands_in_the_row_by_its_means():
    heads, dims = {"heads.layer_1": 3, "heads.layer_2": 0}, {"dims.layer_1": 100, "dims.layer_2": 8}
    result = {**RESULT, "structure": {"structural_sparsity": 0.9, **heads, **dims}}
    assert result_row(cofi_config(), "n", result, TASKS["sst2"])["structure"] == {
        "heads_per_layer": 1.5,
        "dims_per_layer": 54.0,
        "attention_sublayers": 1,
        "ffn_sublayers": 2,
    }


def test_rows_are_appended_to_a_file_of_many(tmp_path):
    for number in range(3):
        append_row(tmp_path / "new" / "results.jsonl", {"number": number})
    lines = (tmp_path / "new" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]


def test_scores_of_further_splits_have_the_splits_name_behind_them():
    own = {
        name: Scored(np.zeros(1), {"accuracy": value})
        for name, value in (("validation", 0.8), ("validation_mismatched", 0.7))
    }
    row = table_row("it", own, None)
    assert row == {"name": "it", "accuracy": 0.8, "accuracy_mismatched": 0.7}
    assert set(table_row("it", own, small_model())) == {*row, *ZEROS}


# ---- device hours ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """run(name, hours, init, teacher) -> its model folder; hours None: its result does not say."""

    def make(name, hours, init=None, teacher=None):
        folder = tmp_path / name
        folder.mkdir()
        config = {"model": {"init": init}, "teacher": teacher and {"init": teacher}}
        (folder / "config.json").write_text(json.dumps({"config": config}))
        spent = {} if hours is None else {"device_hours": hours}
        (folder / "result.json").write_text(json.dumps(spent))
        return str(folder / "model")

    return make


def test_hours_add_up_over_all_that_a_model_came_from(run):
    """OFA-40: teacher preparation is in the number; the dense model that both parents come from is there once."""
    dense = run("dense", 100.0)
    sparse = run("sparse", 20.0, init=dense, teacher=dense)
    teacher = run("teacher", 3.0, init=dense)
    assert device_hours_of(config_of(sparse)) == (120.0, [])
    assert device_hours_of(config_of(sparse, teacher)) == (123.0, [])
    assert device_hours_of(config_of(dense, dense)) == (100.0, [])


def test_parents_whose_hours_nobody_knows_are_named(run):
    """OFA-40: a model of the hub, however far back, and a result that does not say; the others count."""
    of_hub = run("own", 5.0, init="someone/model")
    silent = run("silent", None, init=of_hub)
    assert device_hours_of(config_of("someone/model")) == (0, ["someone/model"])
    assert device_hours_of(config_of(of_hub, of_hub)) == (5.0, ["someone/model"])
    assert device_hours_of(config_of(silent, run("good", 1.0))) == (6.0, [silent, "someone/model"])
