"""The fine-tuning config: what its sections refuse, in which words, and what its nulls stand for."""

import json

import pytest

from ofa.config import ConfigError, FinetuneConfig, load, parse

VALUES = {
    "model": {"init": "runs/base/model"},
    "task": {"name": "sst2"},
    "batch": {"global_size": 8, "micro_size": 8},
    "optimizer": {"lr": 1e-4},
}
TEACHER = {"teacher": {"init": "runs/teacher/model"}}
PRUNING = {"pruning": {"sparsity": 0.5, "ramp_end": 4, "end": 4, "frequency": 2}}


def config_of(**sections):
    """The values above with some sections' keys added or changed."""
    values = json.loads(json.dumps(VALUES))
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse(FinetuneConfig, values, origin="mine.json")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"task": {"path": "a", "dataset": "b"}}, "task.path and task.dataset both say where the examples are"),
        ({"task": {"labels": ["a", "b", "a"]}}, "task.labels names a class twice"),
        ({"task": {"labels": ["a"]}}, "task.labels: .*at least 2"),
        ({"task": {"max_length": 8}}, "task.max_length: .*greater than 8, found 8"),
        ({"task": {"lables": ["a", "b"]}}, "unknown key task.lables.*did you mean labels"),
        ({"task": {"other_labels": "keep"}}, "task.other_labels: .*'refuse' or 'drop'"),
        ({"model": {"dropout": 1.0}}, "model.dropout: .*less than 1"),
        ({"schedule": {"epochs": 1, "total_steps": 5}}, "schedule.epochs and schedule.total_steps both say how long"),
        ({"schedule": {"warmup_share": 10}}, r"schedule.warmup_share: .*found 10 \(10 % is 0.1\)"),
        ({"objective": {"kd_weight": 1.0}}, "kd_weight is above 0 but there is no teacher section"),
        ({"objective": {"ce_weight": 0.0}}, "ce_weight and kd_weight are both 0: nothing would be learned"),
        ({**TEACHER, "objective": {"kd_weight": 0.0}}, "are both 0: nothing would be learned"),
        ({"objective": {"temperature": 0.0}}, "objective.temperature: .*greater than 0"),
        (PRUNING, "lock keeps the zeros as they are and pruning makes new ones: set lock to false"),
        ({"engine": {"zero_stage": 0, "precision": "bf16"}}, "zero_stage 0 with bf16"),
        ({"data": {"path": "x"}}, "unknown key data"),
        ({"evaluate": {"rows": 9}}, "unknown key evaluate.rows; did you mean task.validation_rows\\?"),
        ({"schedule": {"warmup_steps": 9}}, "unknown key schedule.warmup_steps; did you mean schedule.warmup_share\\?"),
    ],
)
def test_what_cannot_be_is_refused_in_words(sections, words):
    with pytest.raises(ConfigError, match=f"mine.json: .*{words}"):
        config_of(**sections)


@pytest.mark.parametrize(
    ("sections", "weights"),
    [
        ({}, (1.0, 0.0)),
        (TEACHER, (0.0, 1.0)),
        ({**TEACHER, "objective": {"ce_weight": 0.5}}, (0.5, 1.0)),
        ({**TEACHER, "objective": {"ce_weight": 0.5, "kd_weight": 0.5}}, (0.5, 0.5)),
        ({**TEACHER, "objective": {"ce_weight": None, "kd_weight": 0.7}}, (0.0, 0.7)),
        ({"teacher": None, "objective": {"ce_weight": None}}, (1.0, 0.0)),
    ],
)
def test_null_weights_follow_the_teacher_and_stand_in_the_resolved_config(sections, weights):
    """OFA-17: the published transfer learns from the teacher alone."""
    config = config_of(**sections)
    assert (config.objective.ce_weight, config.objective.kd_weight) == weights
    again = parse(FinetuneConfig, config.model_dump(mode="json"), origin="its own dump")
    assert again == config


def test_zeros_are_locked_unless_somebody_says_otherwise():
    assert config_of().lock and not config_of(lock=False, **PRUNING).lock


def test_where_data_are_and_how_work_is_divided_is_not_what_is_trained():
    one = config_of(**TEACHER).fingerprint()
    same = [{"task": {"path": "elsewhere"}}, {"task": {"dataset": "copy"}}, {"teacher": {"cache": True}}]
    same = [
        {**TEACHER, **change} if "teacher" not in change else {"teacher": {**TEACHER["teacher"], "cache": True}}
        for change in [*same, {"evaluate": {"micro_size": 2}}, {"log": {"every": 3}}]
    ]
    assert all(config_of(**change).fingerprint() == one for change in same)
    for change in ({"seed": 1}, {"lock": False}, {"task": {"max_length": 64}}, {"evaluate": {"every": 7}}):
        assert config_of(**TEACHER, **change).fingerprint() != one, change


def test_a_fine_tuning_run_has_room_for_its_best_checkpoint_too():
    """The best one stays beside the newest, and a new one is written before an old one goes."""
    config = load(FinetuneConfig, "tiny/finetune.json")
    assert config.most_checkpoints == config.checkpoint.keep_last + 2 and config.has_masks
    assert not load(FinetuneConfig, "tiny/finetune_teacher.json").has_masks
