"""benchmarks/refresh.py: both ways to select agree, and its figures are what they say."""

import json
import math
import subprocess
import sys

import pytest
import torch

from benchmarks import refresh
from tests.processes import CHECKOUT, environment


@pytest.mark.parametrize("kind", refresh.KINDS, ids=lambda kind: kind.name)
def test_sorting_gives_the_masks_that_the_product_gives(kind):
    generator = torch.Generator().manual_seed(0)
    weights = {str(number): torch.randn(64, 64, generator=generator) for number in range(3)}
    ours, sorted_ = refresh.ours(kind, weights), refresh.by_sorting(kind, weights)
    refresh.check_equal(kind, ours, sorted_)
    wrong = {name: ~keep for name, keep in sorted_.items()}
    with pytest.raises(AssertionError, match="differ from sorting"):
        refresh.check_equal(kind, ours, wrong)


def test_the_slope_of_a_power_law_is_its_exponent():
    assert math.isclose(refresh.slope({n: 3e-9 * n**1.25 for n in (1, 2, 4, 96)}), 1.25)


def test_sizes_double_up_to_the_largest():
    assert refresh.counts_of_tensors(100_000_000) == [1, 2, 4, 8, 16, 32, 64, 95]


def test_a_small_run_prints_json_with_every_kind():
    """PERF-11: the command that measures it."""
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "refresh.py"), "--json", "--rounds", "1"]
    command += ["--max-weights", "2100000", "--sort-weights", "1100000"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == [kind.name for kind in refresh.KINDS]
    assert all(set(row["seconds"]) == {"1048576", "2097152"} for row in found["rows"])
    assert found["largest_slope"] and found["largest_share_of_sort"] and found["hardware"]["threads"] == 1
