"""The config of a CoFi run."""

import json

import pytest

from ofa.config import CofiConfig, ConfigError, FinetuneConfig, kind_of, parse

MINIMAL = {
    "model": {"init": "x"},
    "task": {"name": "rte", "path": "y"},
    "batch": {"global_size": 8, "micro_size": 8},
    "optimizer": {"lr": 1e-3},
    "structure": {"sparsity": 0.9},
}


def parsed(**sections):
    """Through the same door as a file."""
    return parse(CofiConfig, {**MINIMAL, **sections}, origin="mine.json")


def test_published_weights_are_filled_in_where_there_is_a_teacher():
    taught = parsed(teacher={"init": "z"})
    assert (taught.objective.ce_weight, taught.objective.kd_weight, taught.objective.layer_weight) == (0.0, 0.1, 0.9)
    alone = parsed()
    assert (alone.objective.ce_weight, alone.objective.kd_weight, alone.objective.layer_weight) == (1.0, 0.0, 0.0)
    own = parsed(teacher={"init": "z"}, objective={"layer_weight": 0.0, "ce_weight": 0.5})
    assert (own.objective.ce_weight, own.objective.kd_weight, own.objective.layer_weight) == (0.5, 0.1, 0.0)
    assert parse(CofiConfig, taught.model_dump(mode="json"), origin="its own dump") == taught


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"structure": {}}, "structure.sparsity"),
        ({"structure": {"sparsity": 1.0}}, "structure.sparsity"),
        ({"structure": {"sparsity": 0.5, "cost": "flops"}}, "params"),
        (
            {"structure": {"sparsity": 0.5, "heads": False, "intermediate": False, "layers": False}},
            "nothing would be pruned",
        ),
        ({"structure": {"sparsity": 0.5, "method": "magnitude", "hidden": True}}, "set method to gates"),
        ({"structure": {"sparsity": 0.5, "cost": "nnz"}}, "set lock to true"),
        (
            {"structure": {"sparsity": 0.5, "begin_epochs": 1.5, "ramp_epochs": 2.5}, "schedule": {"epochs": 4.0}},
            "come to 4 epochs, and schedule gives all of pruning 4: .*raise schedule.epochs",
        ),
        ({"objective": {"layer_weight": 0.5}}, "there is no teacher section"),
        ({"pruning": {"sparsity": 0.5, "ramp_end": 4, "end": 8, "frequency": 2}}, "one run does one of them"),
    ],
)
def test_what_does_not_fit_is_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        parsed(**sections)


def test_a_cofi_config_is_none_of_fine_tuning(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MINIMAL))
    assert kind_of(path) is CofiConfig
    assert issubclass(CofiConfig, FinetuneConfig)
