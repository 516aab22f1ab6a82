"""What every kind of run is made of."""

from types import SimpleNamespace

import pytest
import torch

from ofa.parts import lock_of
from ofa.pruning.pruner import NoPruner


@pytest.mark.parametrize("keep", [{}, {"weight": torch.ones(2, 3, dtype=torch.bool)}], ids=["no layer", "no zero"])
def test_a_lock_whose_zeros_were_all_cut_out_keeps_nothing(keep):
    """Structured pruning may take every zero with it: that is no dense base, which is refused where it is read."""
    assert isinstance(lock_of(SimpleNamespace(keep=keep, scoped={}), None, wanted=True), NoPruner)
