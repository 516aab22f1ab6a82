"""The config of a CoFi run on a corpus."""

import json

import pytest

from ofa.config import CofiConfig, CofiMlmConfig, ConfigError, RunConfig, kind_of, load, load_one_of, parse

MINIMAL = {
    "model": {"init": "x", "architecture": {"model_type": "bert"}},
    "data": {"path": "y", "sequence_length": 64},
    "batch": {"global_size": 8, "micro_size": 8},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": 60},
    "structure": {"sparsity": 0.9, "begin_steps": 10, "ramp_steps": 20},
    "finetune": {"steps": 40},
}


def parsed(**sections):
    """Through the same door as a file."""
    return parse(CofiMlmConfig, {**MINIMAL, **sections}, origin="mine.json")


def test_weights_follow_the_teacher_as_for_a_task():
    taught = parsed(teacher={"init": "z"})
    assert (taught.objective.ce_weight, taught.objective.kd_weight, taught.objective.layer_weight) == (0.0, 0.1, 0.9)
    alone = parsed()
    assert (alone.objective.ce_weight, alone.objective.kd_weight, alone.objective.layer_weight) == (1.0, 0.0, 0.0)
    assert parse(CofiMlmConfig, taught.model_dump(mode="json"), origin="its own dump") == taught


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"structure": {"sparsity": 0.9, "ramp_steps": 20}}, "structure.begin_steps is missing"),
        ({"structure": {**MINIMAL["structure"], "begin_epochs": 1.0}}, "unknown key structure.begin_epochs"),
        ({"finetune": {}}, "finetune.steps is missing"),
        ({"finetune": {"epochs": 2.0}}, "unknown key finetune.epochs"),
        ({"finetune": {"steps": 1.5}}, "finetune.steps"),
        ({"structure": {**MINIMAL["structure"], "hidden": True}}, "decoder of masked words is the word embedding"),
        ({"structure": {**MINIMAL["structure"], "cost": "nnz"}}, "set lock to true"),
        ({"schedule": {"total_steps": 60, "warmup_steps": 11}}, "warmup_steps is 11 and pruning begins at step 10"),
        ({"schedule": {"total_steps": 60, "rewind": {"start": 0, "end": 9, "frequency": 3}}}, "schedule.rewind is for"),
        ({"objective": {"layer_weight": 0.5}}, "layer_weight is above 0 but there is no teacher"),
        ({"objective": {"ce_weight": 0.0}}, "nothing would be learned"),
        ({"pruning": {"sparsity": 0.5, "ramp_end": 4, "end": 8, "frequency": 2}}, "one run does one of them"),
        ({"task": {"name": "rte"}}, "task and data both say what is trained on"),
        ({"model": {"architecture": {"model_type": "bert"}}, "lock": True}, "lock keeps the zeros of model.init"),
    ],
)
def test_what_does_not_fit_is_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        parsed(**sections)


def test_a_file_is_of_a_corpus_by_its_data(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MINIMAL))
    assert kind_of(path) is CofiMlmConfig
    assert isinstance(load_one_of((CofiConfig, CofiMlmConfig), path), CofiMlmConfig)
    assert isinstance(load_one_of((CofiConfig, CofiMlmConfig), "downstream/cofi_large.json"), CofiConfig)
    for kind in (CofiConfig, RunConfig):
        with pytest.raises(ConfigError, match="prunes a masked-LM model's structure: use it with launch/cofi.py"):
            load(kind, path)


@pytest.mark.parametrize("name", ["tiny/cofi_mlm.json", "downstream/cofi_mlm.json"])
def test_shipped_configs_hold_their_target_and_have_masks_with_a_lock_alone(name):
    config = load(CofiMlmConfig, name)
    assert config.structure.begin_steps + config.structure.ramp_steps < config.schedule.total_steps
    assert 12 / config.structure.lr <= config.structure.ramp_steps, "gates could not follow"
    assert config.prunes and not config.has_masks and load(CofiMlmConfig, name, ["lock=true"]).has_masks
