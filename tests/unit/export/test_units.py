"""What is left of a structurally pruned model, as people read it."""

import pytest

from ofa.export.units import Units
from ofa.export.verify import verify_folder
from ofa.export.verify_table import verification_table
from ofa.models.blocks import sizes_of
from ofa.models.materialise import materialise, prunable_parameters
from tests.structures import random_masks
from tests.task_parts import ARCHITECTURES, small_model

ASKED = {"config": {"structure": {"method": "gates", "sparsity": 0.6, "cost": "params"}}}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_weights_follow_from_the_config_alone(model_type, hidden):
    """As the tensors count, dead sublayers and hidden dimensions too."""
    dense = small_model(model_type)
    for seed in range(3):
        small = materialise(dense, random_masks(sizes_of(dense), seed=seed, hidden=hidden))
        units = Units.of(small.config)
        assert units.weights == prunable_parameters(small)
        assert units.gone == pytest.approx(1 - prunable_parameters(small) / prunable_parameters(dense), abs=1e-12)
    assert Units.of(dense.config) is None


def test_it_is_said_layer_by_layer_and_what_was_asked_for():
    dense = small_model()
    masks = random_masks(sizes_of(dense), seed=4)
    small = materialise(dense, masks)
    lines = Units.of(small.config, ASKED).in_words().splitlines()
    heads, dims = small.config.structure["heads"], small.config.structure["intermediate"]
    expected = [[str(n), f"{heads[n - 1]} of 2", f"{dims[n - 1]} of 32"] for n in (1, 2)]
    assert [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[2:4]] == expected
    gone = 1 - prunable_parameters(small) / prunable_parameters(dense)
    assert lines[-2] == f"structure: {gone:.2%} of the dense encoder's {prunable_parameters(dense):,} weights are gone"
    assert lines[-1].endswith("asked for: 60 % of the weights of the encoder's layers")
    assert not Units.of(small.config).in_words().count("asked")


def test_a_verification_shows_the_structure_of_a_compact_model_and_of_no_other(exported_task):
    text = verification_table(verify_folder(exported_task("mrpc", "compact")))
    assert "layer" in text and "of the dense encoder's" in text and "is what it says it is" in text


def test_a_verification_of_a_model_without_zeros_has_no_table_of_them(exported_task):
    """Unless some are expected."""
    folder = exported_task("mrpc", "dense")
    text = verification_table(verify_folder(folder))
    assert text.startswith("no zero in any of 13 scoped tensors\n") and "off by" not in text
    assert verification_table(verify_folder(folder, 0.9)).startswith("scoped tensor")
