"""The config of a run in 8 bits."""

import json

import pytest

from ofa.config import ConfigError, FinetuneConfig, QatConfig, QuantizationConfig, kind_of, parse

MINIMAL = {
    "model": {"init": "x"},
    "task": {"name": "rte", "path": "y"},
    "batch": {"global_size": 8, "micro_size": 8},
    "optimizer": {"lr": 1e-3},
    "quantization": {},
}


def parsed(**sections):
    """Through the same door as a file."""
    return parse(QatConfig, {**MINIMAL, **sections}, origin="mine.json")


def test_a_preset_fills_in_what_is_not_said():
    """prune-ofa.md section 4 and 1.7: KD alone where there is a teacher."""
    ours, published = (parsed(quantization={"preset": name}).quantization for name in ("ours", "published"))
    assert ours == QuantizationConfig()
    assert (ours.weights, ours.weight_divisor, ours.weight_range) == ("per_channel", 127, "current")
    assert (ours.observer_constant, ours.freeze_share, ours.begin_step) == (0.01, 0.5, 0)
    assert (published.weights, published.weight_divisor, published.weight_range) == ("per_tensor", 127.5, "widest")
    assert (published.observer_constant, published.freeze_share, published.begin_step) == (0.01, 0.0, 0)
    assert published.outputs and not ours.outputs and not published.embeddings and not ours.embeddings
    mixed = parsed(quantization={"preset": "published", "weights": "per_channel"}).quantization
    assert mixed.weights == "per_channel" and mixed.weight_divisor == 127.5
    whole = parsed(quantization={"preset": "published"}, teacher={"init": "z"})
    assert (whole.objective.ce_weight, whole.objective.kd_weight) == (0.0, 1.0) and whole.lock
    assert parse(QatConfig, whole.model_dump(mode="json"), origin="its own dump") == whole


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"quantization": {"preset": "theirs"}}, "quantization.preset"),
        ({"quantization": {"weight_divisor": 128}}, "quantization.weight_divisor"),
        ({"quantization": {"observer_constant": 0}}, "quantization.observer_constant"),
        ({"quantization": {"freeze_share": 50}}, "50 % is 0.5"),
        ({"quantization": {"exclude": ["("]}}, "no regular expression"),
        ({"quantization": {"bits": 4}}, "unknown key quantization.bits"),
        ({"lock": False, "pruning": {"sparsity": 0.5, "ramp_end": 4, "frequency": 2}}, "pruning comes before 8 bits"),
    ],
)
def test_what_does_not_fit_is_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        parsed(**sections)


def test_a_qat_config_is_none_of_fine_tuning(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MINIMAL))
    assert kind_of(path) is QatConfig
    assert issubclass(QatConfig, FinetuneConfig)
