"""metrics.jsonl and the event files that mirror it."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ofa.metrics import MetricsLog, read_metrics


def events(folder, tag="loss"):
    """(step, value) pairs that TensorBoard reads."""
    reader = EventAccumulator(str(folder / "tensorboard"))
    reader.Reload()
    return [(scalar.step, scalar.value) for scalar in reader.Scalars(tag)]


def write(folder, steps, **options):
    """A log with one line a step, left open as a killed run leaves it."""
    log = MetricsLog(folder, **options)
    for step in steps:
        log.append({"step": step, "loss": float(step)})
    return log


def test_a_line_is_on_disk_and_in_tensorboard_before_the_log_is_closed(tmp_path):
    write(tmp_path, range(3))
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0.0, 1.0, 2.0]
    assert events(tmp_path) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_scalars_of_numpy_and_torch_are_written_as_numbers(tmp_path):
    MetricsLog(tmp_path).append({"step": 1, "loss": torch.tensor(1.5), "dropped": np.int64(3), "note": None})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line.items() >= {"loss": 1.5, "dropped": 3, "note": None}.items()


def test_values_that_are_not_finite_are_strict_json_and_come_back_as_floats(tmp_path):
    MetricsLog(tmp_path).append({"step": 0, "a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    line = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert math.isnan(line["a"]) and line["b"] == math.inf and line["c"] == -math.inf


def test_other_ranks_than_zero_write_nothing(tmp_path):
    log = write(tmp_path, range(3), active=False)
    log.cut_back(1)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_there_are_no_event_files(tmp_path):
    write(tmp_path, range(3), tensorboard=False).cut_back(2)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@settings(max_examples=25, deadline=None)
@given(written=st.integers(0, 12), step=st.integers(0, 14), broken=st.integers(0, 30), more=st.integers(0, 3))
def test_a_resumed_run_has_the_lines_of_one_that_was_not_killed(tmp_path_factory, written, step, broken, more):
    folder = tmp_path_factory.mktemp("run")
    write(folder, range(written))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": written, "loss": 7.0, "masked_lm": 2.0})[:broken])
    log = MetricsLog(folder)
    log.cut_back(step)
    for later in range(step, step + more):
        log.append({"step": later, "loss": float(later)})
    expected = [(t, float(t)) for t in [*range(min(written, step)), *range(step, step + more)]]
    lines = read_metrics(folder / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == expected
    assert (events(folder) if expected else []) == expected


def test_validation_lines_of_the_step_that_is_resumed_are_cut_too(tmp_path):
    log = MetricsLog(tmp_path)
    for line in ({"step": 4, "loss": 1.0}, {"step": 5, "validation_loss": 2.0}, {"step": 5, "loss": 3.0}):
        log.append(line)
    log.cut_back(5)
    assert [line["step"] for line in read_metrics(log.path)] == [4]


def test_the_time_of_an_event_survives_a_rebuild(tmp_path):
    log = write(tmp_path, range(2))
    before = read_metrics(log.path)
    log.cut_back(9)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [scalar.wall_time for scalar in reader.Scalars("loss")] == [line["time"] for line in before]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        read_metrics(tmp_path / "metrics.jsonl")
