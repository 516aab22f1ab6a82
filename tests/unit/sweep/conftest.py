"""Sweeps as configs, for tests."""

import pytest

from ofa.config import SweepConfig, parse
from ofa.sweep.plan import plan


@pytest.fixture
def build_sweep():
    """A sweep's config over the tiny recipe, with the values of a test."""
    return lambda **values: parse(
        SweepConfig, {"script": "pretrain", "config": "tiny/ofa_90.json", **values}, origin="test"
    )


@pytest.fixture
def planned(build_sweep, tmp_path):
    """The cells of such a sweep, by name."""
    return lambda **values: {cell.name: cell for cell in plan(build_sweep(**values), tmp_path / "s")}
