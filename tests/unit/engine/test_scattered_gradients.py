"""The norm of shares of flat gradients."""

import pytest
import torch

from ofa.engine.scattered_gradients import norm_of


def test_the_norm_of_many_gradients_is_exact():
    """Summed in one go, 30 M of them would be off by 1e-3."""
    shares = torch.randn(30_000_000, generator=torch.Generator().manual_seed(0)).mul_(1e-3).split([29_999_999, 1])
    exact = torch.linalg.vector_norm(torch.cat(shares), dtype=torch.float64)
    assert float(norm_of(shares)) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad):
    shares = [torch.ones(3), torch.tensor([1.0, bad])]
    assert not torch.isfinite(norm_of(shares))
