"""Grid keys, their values, and placeholders."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import SweepConfig, load
from ofa.sweep.axes import SweepError, combinations, filled, flat, override, placeholders

KEYS = st.sampled_from(["seed", "optimizer.lr", "pruning.sparsity", "batch.global_size", "log.every"])
PLAIN = st.one_of(st.integers(-9, 9), st.floats(0, 1), st.booleans(), st.none(), st.sampled_from(["a", "b/c", "x y"]))
VALUES = st.lists(PLAIN, min_size=1, max_size=4, unique_by=lambda v: v if isinstance(v, str) else json.dumps(v))


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_a_grid_is_the_product_of_its_values_in_order(grid):
    found = [tuple(point.values[point.axis] for point in points) for points in combinations(grid)]
    assert found == list(itertools.product(*grid.values()))
    assert all([point.axis for point in points] == list(grid) for points in combinations(grid))


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_labels_tell_values_apart(grid):
    labels = [tuple(point.label for point in points) for points in combinations(grid)]
    assert len(set(labels)) == len(labels)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)) | PLAIN | st.lists(PLAIN, max_size=3))
def test_an_override_gives_a_config_exactly_the_value(value):
    """Read by the config's own reader; a text that looks like a number, true or null stays a text."""
    assert load(SweepConfig, "tiny/sweep.json", [override("set", {"x": value})]).set == {"x": value}
    if isinstance(value, str):
        assert load(SweepConfig, "tiny/sweep.json", [override("config", value)]).config == value


def test_the_last_part_of_a_key_names_a_run_unless_two_keys_end_alike():
    (points,) = combinations({"optimizer.lr": [1e-4], "seed": [1]})
    assert [point.part for point in points] == ["lr=0.0001", "seed=1"]
    (points,) = combinations({"batch.micro_size": [1], "evaluate.micro_size": [2]})
    assert [point.part for point in points] == ["batch.micro_size=1", "evaluate.micro_size=2"]


def test_a_named_value_sets_several_keys_and_is_called_by_its_name():
    ((point,),) = combinations({"task": [{"name": "mrpc", "set": {"task.name": "mrpc", "task": {"path": "glue"}}}]})
    assert (point.part, point.label) == ("mrpc", "mrpc")
    assert point.values == {"task.name": "mrpc", "task.path": "glue"}


def test_a_path_as_a_value_makes_a_safe_name():
    ((point,),) = combinations({"model.init": ["models/mini lm"]})
    assert point.part == "init=models_mini_lm"
    assert point.label == "models/mini lm"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "grid key a.b has no values"),
        ([1, 2, 1], "has the value 1 twice"),
        ([[1, 2]], "give it a name"),
        ([{"set": {"x": 1}}], "name is missing"),
        ([{"name": "x", "sett": {}}], "unknown key sett; did you mean set?"),
        ([{"name": "a/b", "set": {}}], "begins with a letter or digit, found 'a/b'"),
    ],
)
def test_what_is_no_value_is_refused_with_its_key(values, words):
    with pytest.raises(ValueError, match="grid key a.b") as error:
        list(combinations({"a.b": values}))
    assert words in str(error.value)


def test_braces_are_filled_everywhere_in_a_value():
    value = {"a": ["runs/{dense}/model", 3, None], "b": "{{no}} {task}{task}"}
    assert placeholders(value) == {"dense", "task"}
    assert filled(value, {"dense": "d", "task": "t"}) == {"a": ["runs/d/model", 3, None], "b": "{no} tt"}


def test_objects_are_taken_apart_but_empty_ones_and_lists_are_values():
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


def test_a_sweep_error_is_a_value_error():
    assert issubclass(SweepError, ValueError)
