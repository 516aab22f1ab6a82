"""Which masks a forward is under, and which layers then count as alive."""

import pytest
import torch

from ofa.downstream.cofi.masked import MaskedForward
from ofa.downstream.cofi.structure import Structure
from ofa.models.blocks import sizes_of
from ofa.models.structure import StructureMasks
from tests.task_parts import small_model

ALL = torch.ones(3, dtype=torch.bool)


class Fixed:
    """Gives the same masks each time."""

    def __init__(self, masks):
        self.masks = masks

    def sample(self):
        return self.masks


@pytest.fixture
def model():
    """Of three layers."""
    return small_model("bert", num_hidden_layers=3)


def without(model, *layers):
    """Masks under which these layers do nothing."""
    masks = StructureMasks.ones(sizes_of(model))
    for layer in layers:
        masks.attention[layer] = masks.ffn[layer] = 0
    return masks.canonical()


@pytest.mark.parametrize(
    ("training", "active", "masked"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_masks_are_drawn_in_training_under_gates_alone(model, training, active, masked):
    """COFI-33: a layer that the masks of the moment kill is none that a teacher's layer is matched with."""
    with MaskedForward(model) as forward:
        structure = Structure(forward, ALL)
        structure.source, structure.active = Fixed(without(model, 1)), active
        alive = structure.enter(training=training)
        assert alive.tolist() == ([True, False, True] if masked else [True] * 3)
        assert (forward.masks is not None) == masked


def test_a_fixed_structure_is_above_what_is_drawn(model):
    with MaskedForward(model) as forward:
        structure = Structure(forward, ALL)
        structure.source, structure.active = Fixed(without(model, 1)), True
        with structure.fixed(without(model, 0, 2)):
            for training in (True, False):
                assert structure.enter(training=training).tolist() == [False, True, False]
        assert structure.enter(training=True).tolist() == [True, False, True]


def test_a_final_structure_keeps_its_living_layers():
    alive = torch.tensor([True, False])
    assert Structure(None, alive).enter(training=True) is alive
