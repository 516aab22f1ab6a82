"""What a finished model is evaluated on: from its run, its recipe and the command line; and its classes by name."""

import json
import shutil

import pytest
from transformers import BertConfig

from ofa.config import ConfigError, TaskConfig, apply_override
from ofa.data.tasks import task_for
from ofa.downstream.evaluate_model import EvaluationError, matched_classes, origin_of, task_config
from ofa.models.place import ModelError
from ofa.run_files import RunFolderError
from tests.task_folders import write_task_model, write_tokenizer

RECORDED = {"name": "mrpc", "path": None, "dataset": "a/copy", "max_length": 64, "labels": None}


def section(recorded=RECORDED, task=None, path=None, overrides=()):
    """The resolved section."""
    return task_config("m", recorded, task=task, path=path, overrides=overrides)


# ---- the task section -------------------------------------------------------------------------------------------


def test_what_is_recorded_is_kept_where_nothing_else_is_given():
    found = section()
    assert (found.name, found.dataset, found.max_length) == ("mrpc", "a/copy", 64)
    assert section(task="mrpc") == found


def test_of_another_task_nothing_is_kept():
    assert section(task="rte") == TaskConfig(name="rte")


def test_a_path_takes_the_place_of_the_recorded_dataset():
    found = section(path="elsewhere")
    assert (found.path, found.dataset, found.max_length) == ("elsewhere", None, 64)


def test_set_values_win_over_options_and_record():
    found = section(path="elsewhere", overrides=["task.path=here", "task.max_length=32", 'task.labels=["a","b"]'])
    assert (found.path, found.max_length, found.labels) == ("here", 32, ["a", "b"])


def test_a_task_may_be_given_by_set_alone():
    assert section({}, overrides=["task.name=rte"]).name == "rte"


def test_the_record_stays_as_it_is():
    before = json.dumps(RECORDED)
    section(path="elsewhere", overrides=["task.max_length=32"])
    assert json.dumps(RECORDED) == before


def test_without_any_task_the_two_ways_on_are_named():
    with pytest.raises(EvaluationError, match="m does not say .*--task and --path, or --data"):
        section({})


def test_a_recorded_folder_that_is_gone_is_named(tmp_path):
    there = {"name": "mrpc", "path": str(tmp_path)}
    gone = {"name": "mrpc", "path": str(tmp_path / "gone")}
    assert section(there).path == str(tmp_path)
    with pytest.raises(EvaluationError, match=r"fine-tuned on .*gone, which is no folder here .*--path"):
        section(gone)
    assert section(gone, overrides=[f"task.path={tmp_path}"]).path == str(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1", "expected task.KEY=VALUE"),
        ("task=3", "expected task.KEY=VALUE"),
        ("task.stride", "expected section.key=value"),
        ("task.stride=many", "task: stride"),
        ("task.strid=3", "unknown key strid; did you mean stride"),
        ("task.labels.first=a", "labels is not a section"),
    ],
)
def test_values_that_cannot_be_set_are_refused(override, words):
    with pytest.raises(ConfigError, match=words):
        section({**RECORDED, "labels": ["a", "b"]}, overrides=[override])


def test_an_override_makes_the_sections_that_it_leads_through():
    values = {"a": None}
    apply_override(values, "a.b.c=[1]")
    assert values == {"a": {"b": {"c": [1]}}}


# ---- where a model comes from -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A task model's folder, in no run."""
    folder = tmp_path_factory.mktemp("models")
    return write_task_model(folder / "mrpc", "mrpc", write_tokenizer(folder / "tokenizer"))


def in_run(model, folder, record):
    """A copy of the model in a run folder with this record."""
    shutil.copytree(model, folder / "model")
    (folder / "config.json").write_text(json.dumps(record))
    return str(folder / "model")


def test_the_runs_record_comes_before_the_recipe(model, tmp_path):
    record = {"config": {"task": {"name": "rte"}}, "data_fingerprint": "", "versions": {}}
    init = in_run(model, tmp_path / "run", record)
    found = origin_of(init)
    assert (found.task, found.result, found.recipe["steps"]) == ({"name": "rte"}, {}, 12)
    (tmp_path / "run" / "result.json").write_text('{"seconds": 3}')
    assert origin_of(init).result == {"seconds": 3}


def test_outside_a_run_the_recipe_says_the_task(model):
    found = origin_of(str(model))
    assert found.task["name"] == "mrpc" and found.config["seed"] == 7


def test_a_pre_training_run_says_nothing_of_tasks(model, tmp_path):
    record = {"config": {"data": {}}, "data_fingerprint": "", "versions": {}}
    assert origin_of(in_run(model, tmp_path / "run", record)).task == {}


def test_a_record_of_another_kind_is_an_error(model, tmp_path):
    with pytest.raises(RunFolderError, match="is no run's record: it lacks"):
        origin_of(in_run(model, tmp_path / "run", {"config": {}}))


# ---- classes ----------------------------------------------------------------------------------------------------


def row(name, **values):
    """A task's row."""
    return task_for(TaskConfig(name=name, path=".", **values))


def named(*names):
    """A model's config with these classes."""
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: place for place, name in enumerate(names)})


def test_classes_are_read_in_the_tasks_order_by_name():
    """OFA-20."""
    mnli = row("mnli")
    task, order = matched_classes(named("CONTRADICTION", "Entailment", "neutral"), mnli, "m")
    assert (task, order) == (mnli, [1, 2, 0])
    assert matched_classes(named(*mnli.labels), mnli, "m") == (mnli, None)


def test_where_the_task_names_no_classes_the_model_does():
    task, order = matched_classes(
        named("tea", "coffee"), row("text_classification", text_column="t", label_column="l"), "m"
    )
    assert (task.labels, order) == (("tea", "coffee"), None)


def test_numbers_are_names_where_the_data_have_them():
    task, _ = matched_classes(named("1", "2", "3"), row("token_classification", text_column="t", label_column="l"), "m")
    assert task.labels == ("1", "2", "3")


def test_classes_that_nobody_named_are_refused_where_the_task_names_none():
    with pytest.raises(EvaluationError, match=r"LABEL_0, LABEL_1.*task\.labels="):
        matched_classes(named("LABEL_0", "LABEL_1"), row("text_classification", text_column="t", label_column="l"), "m")


def test_another_models_classes_are_refused_with_the_place_to_name_them():
    with pytest.raises(ModelError, match=r"m has the classes good, bad, .*id2label of its config\.json"):
        matched_classes(named("good", "bad"), row("sst2"), "m")


def test_regression_needs_one_output_and_questions_none():
    stsb, squad = row("stsb"), row("squad")
    assert matched_classes(named("LABEL_0"), stsb, "m") == (stsb, None)
    with pytest.raises(ModelError, match="m has 2 outputs, stsb needs one"):
        matched_classes(named("LABEL_0", "LABEL_1"), stsb, "m")
    assert matched_classes(named("LABEL_0", "LABEL_1"), squad, "m") == (squad, None)
